"""The $500 night, lived once: an agent that never ends, the alert, the dashboard, the run, the cause, the kill.

`python -m tests.walkthrough` prints docs/walkthrough.md, every output in it as it came; `--write` puts it there
(`make walkthrough`). Invariant: real parts throughout: gateway, provider on the wire, Prometheus, webhook, verbs.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.dashboards.pages import filled, questions
from tests.e2e.observing import Alertmanager, Prometheus, Receiver, until
from tests.e2e.spending import call
from tests.play import NUSD, ROOT, Answer, Gateway, nusd

PAGE = ROOT / "docs" / "walkthrough.md"
RUN, AGENT = "nightly-report", "researcher"
CONFIG = """[[budgets]]
name = "each-run"
scope = "run"
usd = 500                      # "so that nothing gets in its way"

[projections.alerts.channels.oncall]
url = "{hook}/oncall"
secret = "whsec_MfKQ9r8GKYqUgNdUaBuoDqDZkD9NXDT5"
"""
STEPS_MOST = 400
PACE_S = 0.4
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
FOUND = "No report of that name was found. Try again with other words. " + "An index of everything else follows. " * 400
REASON = "searches for the same report again and again"


class Night:
    """What happened, as text for the page."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def say(self, *paragraphs: str) -> None:
        """Prose."""
        for paragraph in paragraphs:
            self.parts.append("\n".join(textwrap.wrap(" ".join(paragraph.split()), 118, break_on_hyphens=False)))

    def head(self, title: str) -> None:
        """A heading."""
        self.parts.append(f"## {title}")

    def show(self, text: str, kind: str = "console") -> None:
        """What was really said; nothing of one machine is in it."""
        self.parts.append(f"```{kind}\n{text.strip()}\n```")

    def page(self) -> str:
        """The whole page."""
        return "\n\n".join(self.parts) + "\n"


def meterbox(gateway: Gateway, *words: str) -> str:
    """A command as a person types it, and what it says."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("METERBOX_")}
    asked = [sys.executable, "-m", "gateway", *words, "--config", str(gateway.file)]
    done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    said = (done.stdout + done.stderr).replace(str(gateway.file.parent), "~")
    return f"$ meterbox {shown}\n{said}"


async def runaway(gateway: Gateway) -> Answer:
    """The agent: it asks, searches, finds nothing, and asks again with all of it; its last answer is a refusal."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "Summarise last night's report."}]
    for _ in range(STEPS_MOST):
        body = {"model": "gpt-4o", "messages": history, "tools": [TOOL], "max_tokens": 500}
        answer = await call(gateway, RUN, body, x_meterbox_agent=AGENT)
        if answer.status != 200:
            return answer
        message = answer.json()["choices"][0]["message"]
        history.append(message)
        history += [{"role": "tool", "tool_call_id": tool["id"], "content": FOUND} for tool in message["tool_calls"]]
        await asyncio.sleep(PACE_S)
    raise AssertionError("nobody stopped it")


def panel(prometheus: Prometheus, title: str) -> str:
    """What one panel of the Overview says now."""
    (question,) = [one for one in questions() if one.page == "overview.json" and one.panel == title]
    rows = prometheus.query(filled(question.expression))
    said = [f"{title}"]
    for row in rows:
        labels = ", ".join(f"{name} {value}" for name, value in sorted(row["metric"].items()) if name != "__name__")
        said.append(f"  ${float(row['value'][1]):.2f}{'   ' + labels if labels else ''}")
    return "\n".join(said)


def alert(hook: Receiver, status: str) -> dict[str, Any]:
    """The alert of the run's pace, as the webhook got it."""

    def came() -> Any:
        bodies = [json.loads(body) for body in hook.bodies if b'"burn_rate"' in body]
        found = [one for body in bodies for one in body["alerts"] if one["status"] == status]
        return [one for one in found if one["labels"]["alertname"] == "burn_rate"]

    alerts: list[dict[str, Any]] = until(came, f"the alert is {status}", 90)
    return alerts[-1]


async def live(folder: Path) -> str:
    """The whole night; the page."""
    night, provider = Night(), ScriptedProvider(Script(tool_steps=-1, output_tokens=40))
    await provider.start()
    with ExitStack() as stack:
        hook = Receiver()
        stack.callback(hook.stop)
        head = f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n'
        gateway = Gateway(folder, head + CONFIG.format(hook=hook.origin))
        await asyncio.to_thread(stack.enter_context, gateway)
        alertmanager = await asyncio.to_thread(Alertmanager, folder, f"{hook.origin}/am")
        stack.callback(alertmanager.stop)
        prometheus = await asyncio.to_thread(Prometheus, folder, gateway.port, alertmanager.port)
        stack.callback(prometheus.stop)
        await asyncio.to_thread(until, lambda: prometheus.query("meterbox_build_info"), "the first scrape")
        agent = asyncio.ensure_future(runaway(gateway))
        told = await asyncio.to_thread(alert, hook, "firing")
        await asyncio.to_thread(_until_dear, gateway)
        _opening(night)
        _alerted(night, told)
        await asyncio.to_thread(_looked, night, gateway, prometheus)
        killed = await asyncio.to_thread(meterbox, gateway, "kill", RUN, "--reason", REASON)
        refusal = await asyncio.wait_for(agent, 30)
        over = await asyncio.to_thread(alert, hook, "resolved")
        await asyncio.to_thread(gateway.quiet, RUN)
        _stopped(night, killed, refusal, over)
        await asyncio.to_thread(_afterwards, night, gateway, provider)
    await provider.stop()
    return night.page()


def _until_dear(gateway: Gateway, usd: float = 2.0) -> None:
    """Waits until it is worth a look."""
    until(lambda: nusd(gateway.run(RUN)["spent_usd"]) > usd * NUSD, f"${usd} are spent", 90)


def _opening(night: Night) -> None:
    night.parts.append("# The $500 night, from the alert to the kill")
    night.say(
        """Made by `make walkthrough` (`python -m tests.walkthrough --write`): a gateway, a provider on the wire with a
        bill of its own, an agent that never ends, Prometheus, and a webhook in place of the phone. Every output below
        is what these said. The agent runs at many times the pace of a real night, so that it is told in half a minute;
        the times of day belong to the story.""",
        "The configuration has one budget, and somebody made it generous:",
    )
    night.show(CONFIG.format(hook="https://phone.example.com"), "toml")


def _alerted(night: Night, told: dict[str, Any]) -> None:
    night.head("3:12 a.m.: the phone")
    night.say("No budget is near its end. What the gateway tells of is the pace, which it watches without being asked:")
    said = told["annotations"]
    lines = [said["summary"], *(f"{word}: {said[word]}" for word in ("stop", "look", "mute") if word in said)]
    night.show("\n".join(lines), "text")
    night.say("`stop` would end it now. You have half a minute, so you look first.")


def _looked(night: Night, gateway: Gateway, prometheus: Prometheus) -> None:
    night.head("3:13: the dashboard")
    night.say("Overview answers in four panels how fast, whose, how much so far:")
    titles = ("How fast is it going?", "Who is spending?", "What was spent?", "Who spent the most?")
    night.show("\n".join(panel(prometheus, title) for title in titles), "text")
    night.say("The pace is that of five minutes, of which this agent has used only seconds: it will look worse.")
    night.say(
        'One agent, one model. "Which live runs are the dearest?" names the run; a click opens it. Or, on the phone:'
    )
    night.show(meterbox(gateway, "runs", "--state", "active"))
    night.head("3:14: the run")
    night.show(meterbox(gateway, "runs", "show", RUN))
    night.head("3:15: the call, and the cause")
    calls = gateway.items(f"/api/runs/{RUN}/calls")
    night.say(
        """The page Run lists every call. The first, one in the middle and the last show what grows: each call reads
        everything that was found before, again."""
    )
    rows = [f"{'step':>4} {'input tokens':>13} {'output':>7} {'cost':>10}  finish"]
    for one in (calls[0], calls[len(calls) // 2], calls[-1]):
        usage = one["usage"]
        rows.append(
            f"{one['step']:>4} {usage['input_tokens']:>13} {usage['output_tokens']:>7} "
            f"{'$' + one['cost_usd'][:8]:>10}  {one['finish_reason']}"
        )
    night.show("\n".join(rows), "text")
    tools = gateway.items(f"/api/runs/{RUN}/tools")
    names = sorted({tool["name"] for tool in tools})
    night.say('And "Which tools did it use?":')
    failed = sum(bool(tool["is_error"]) for tool in tools)
    night.show(f"{len(tools)} tool calls, all of them {' and '.join(names)}; {failed} ended with an error", "text")
    night.say(
        f"""The cause: a search that finds nothing is answered with a long page, the agent reads it, believes that other
        words would help, and asks again. It does not end by itself: {len(calls)} calls so far, each dearer than the one
        before."""
    )


def _stopped(night: Night, killed: str, refusal: Answer, over: dict[str, Any]) -> None:
    night.head("3:16: the kill")
    night.show(killed)
    night.say("The agent's next call is refused, without the provider being asked, in words that a model can read:")
    night.show(refusal.json()["error"]["message"], "text")
    night.say("The phone, once more:")
    night.show(over["annotations"]["summary"], "text")


def _afterwards(night: Night, gateway: Gateway, provider: ScriptedProvider) -> None:
    night.head("9:00: what it cost, and what would have stopped it")
    spent, bill = nusd(gateway.run(RUN)["spent_usd"]), provider.bill_nusd(RUN)
    night.say("What the ledger says, and what the provider's own bill says:")
    night.show(f"ledger    ${spent / NUSD:.6f}\nprovider  ${bill / NUSD:.6f}", "text")
    assert spent == bill, f"{spent} != {bill}"
    night.show(meterbox(gateway, "ledger", "audit"))
    night.say("What would have ended it without anybody awake, after two dollars or forty calls:")
    night.show(
        """
[[budgets]]
name = "each-run"
scope = "run"
usd = 2
on_exceed = "last_call"        # it may say what it knows, then it is over

[[budgets]]
name = "steps"
scope = "run"
calls = 40
""",
        "toml",
    )
    night.say(
        "More for each kind of alert: [runbooks](runbooks/README.md). What the gateway tells of by itself: "
        "[alerts](alerts.md); what Prometheus adds: `dashboards/rules/alerts.yaml`."
    )


def main(words: list[str]) -> None:
    """Prints the page, or writes it."""
    with tempfile.TemporaryDirectory(prefix="walkthrough-") as folder:
        began = time.monotonic()
        page = asyncio.run(live(Path(folder)))
    if words == ["--write"]:
        PAGE.write_text(page, encoding="utf-8")
        print(f"docs/walkthrough.md, in {time.monotonic() - began:.0f} s", file=sys.stderr)
    else:
        print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
