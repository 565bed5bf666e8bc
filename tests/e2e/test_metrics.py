"""`/metrics` of a real gateway: equal to the ledger although its process is killed, and read by promtool."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from gateway.core.telemetry.metrics import families
from gateway.core.telemetry.metrics.exposition import CONTENT_TYPE
from gateway.demo.provider import ScriptedProvider
from tests.core.telemetry.metrics.metering import read, samples, total
from tests.e2e.observing import until
from tests.e2e.spending import call, chat, scripted
from tests.play import ROOT, Gateway, nusd

RUNS, CALLS, KILLS = 6, 20, 4
NOTEBOOK = "projections/metrics.sqlite3-wal"
BUDGETS = """
[[budgets]]
name = "each-run"
scope = "run"
usd = 1
[[budgets]]
name = "a-day"
scope = "agent:*"
per = "day"
usd = 5
"""


def page(gateway: Gateway) -> str:
    """What is served now; empty where nothing is."""
    answer = gateway.get("/metrics")
    return answer.body.decode() if answer.status == 200 else ""


def told(text: str, **labels: str) -> int:
    """Nano-dollars by the two counters."""
    names = ("meterbox_cost_usd_total", "meterbox_cost_corrected_usd_total")
    cost, back = (total(text, name, **labels) for name in names) if text else (0, 0)
    return round((cost - back) * 10**9)


async def work(gateway: Gateway, number: int, until_done: asyncio.Task[None] | None = None) -> None:
    """One agent's run, every other call streamed; at least CALLS of them."""
    step = 0
    while step < CALLS or (until_done is not None and not until_done.done()):
        await call(gateway, f"r{number}", chat(stream=step % 2 == 0), x_meterbox_agent=f"agent-{number % 3}")
        step += 1


def written(file: Path) -> int:
    """When; 0 where it isn't there."""
    return file.stat().st_mtime_ns if file.exists() else 0


def written_after(file: Path, instant: int) -> bool:
    return written(file) > instant


def murdered(gateway: Gateway) -> None:
    """The process of the projections is killed in the instant in which it wrote down what it counted, and again."""
    file = gateway.ledger.parent / NOTEBOOK
    for number in range(1, KILLS + 1):
        pid = gateway.says("projections_started", number, 60)[-1]["pid"]
        until(partial(written_after, file, written(file)), "a write")
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
async def test_counters_equal_the_ledger_over_kills(tmp_path: Path, provider: ScriptedProvider, workers: int) -> None:
    """kill -9 amid agents at work: every call, token and nano-dollar once, by agent too (R-093, R-109)."""
    with Gateway(tmp_path, scripted(provider, BUDGETS), workers=workers) as gateway:
        killing = asyncio.create_task(asyncio.to_thread(murdered, gateway))
        await asyncio.gather(*(work(gateway, number, killing) for number in range(RUNS)))
        await asyncio.wait_for(killing, 120)
        runs = [gateway.get(f"/api/runs/r{number}").json() for number in range(RUNS)]
        spent = [nusd(run["own_spent_usd"]) for run in runs]
        calls = sum(run["calls"] for run in runs)

        def whole() -> str:
            text = page(gateway)
            return text if text and total(text, "meterbox_requests_total") >= calls else ""

        text = await asyncio.to_thread(until, whole, "all calls", 60)
        assert provider.bill_nusd() == sum(spent) == told(text)
        assert [spent[agent] + spent[agent + 3] for agent in range(3)] == [
            told(text, agent=f"agent-{agent}") for agent in range(3)
        ]
        assert calls == total(text, "meterbox_requests_total", outcome="ok")
        assert sum(run["input_tokens"] for run in runs) == total(text, "meterbox_tokens_total", type="input")
        assert calls == total(text, "gen_ai_usage_cost_USD_count")
        assert 0.4 < total(text, "gen_ai_server_time_to_first_token_seconds_count") / calls < 0.6
        assert KILLS == len(gateway.said("projections_died"))
        assert RUNS == total(text, "meterbox_runs_active")
        used = samples(text, "meterbox_budget_spent_usd", budget="a-day")
        assert [max(told(text, agent=f"agent-{agent}") for agent in range(3))] == [round(one * 10**9) for one in used]


@pytest.mark.server
async def test_promtool_finds_nothing_to_say(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Content type, exemplars with the run and its trace, and Prometheus' own linter of the text."""
    with Gateway(tmp_path, scripted(provider, BUDGETS)) as gateway:
        await work(gateway, 0)
        await asyncio.to_thread(gateway.post, "/api/runs/r0/end", {"outcome": "completed", "reason": "done"})
        ended = "meterbox_runs_finished_total"
        text = await asyncio.to_thread(until, lambda: page(gateway) if ended in page(gateway) else "", "the end", 30)
        trace = gateway.get("/api/runs/r0").json()["trace_id"]
        assert CONTENT_TYPE == gateway.get("/metrics").headers["content-type"]
    exemplars = [sample.exemplar for sample in read(text)["meterbox_run_cost_usd"].samples if sample.exemplar]
    assert [{"run_id": "r0", "trace_id": trace}] == [exemplar.labels for exemplar in exemplars]
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    assert [] == linted(promtool, text)


def linted(promtool: str, text: str) -> list[str]:
    """What promtool says; one name is what other products' dashboards ask for, and has capitals."""
    asked = [promtool, "check", "metrics"]
    done = subprocess.run(asked, input=plain(text), capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.split()[:1] != ["gen_ai_usage_cost_USD"]]


def plain(text: str) -> str:
    """The text as the older format has it, which is all that promtool's linter reads."""
    lines = []
    counters = {
        line.split()[2] for line in text.splitlines() if line.startswith("# TYPE") and line.endswith(" counter")
    }
    for line in text.splitlines():
        words = line.split(" ")
        if words[0] == "#" and words[1] in ("HELP", "TYPE"):
            words[2] += "_total" if words[2] in counters else "_info" if words[2] == "meterbox_build" else ""
            lines.append(" ".join(words).replace(" info", " gauge") if words[1] == "TYPE" else " ".join(words))
        elif words[0] != "#":
            lines.append(line.partition(" # ")[0])
    return "\n".join(lines) + "\n"


@pytest.mark.server
def test_examples_of_the_docs_are_queries(tmp_path: Path) -> None:
    """Every example of docs/metrics.md, and its fenced block, is understood by Prometheus."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    docs = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in docs.splitlines() if line.startswith(("| `meterbox_", "| `gen_ai_"))]
    found = [row.rstrip(" |").rpartition(" | `")[2].rstrip("`").replace("\\|", "|") for row in rows]
    for block in re.findall(r"```promql\n(.*?)```", docs, re.S):
        found += [part.strip() for part in re.split(r"^#.*\n", block, flags=re.M) if part.strip()]
    assert len(found) >= len(families.ALL) + 3
    rules = [{"record": f"docs:example:{number}", "expr": query} for number, query in enumerate(found)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
