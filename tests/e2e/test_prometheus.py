"""A real Prometheus reads a real gateway after a busy day: every panel shows something, every rule can fire, and the
dollars on the pages are the ledger's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from gateway.demo.provider import ScriptedProvider
from tests.dashboards.pages import FOLDER, INFINITY, PROMETHEUS, bare, filled, pages, questions, selectors
from tests.e2e import loading
from tests.e2e.observing import Alertmanager, Prometheus, Receiver, missing, until
from tests.e2e.replay import Recorded
from tests.play import NUSD, ROOT, Gateway

# One loop for all: the fixture's provider lives on the loop of the module.
pytestmark = [pytest.mark.server, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]

SENT = """
[projections.otlp.destinations.tempo]
endpoint = "{taking}"
[projections.otlp.destinations.picky]
endpoint = "{refusing}"
[projections.alerts.channels.oncall]
url = "{hook}/hook"
secret = "whsec_MfKQ9r8GKYqUgNdUaBuoDqDZkD9NXDT5"
"""
CHARGED = "sum(meterbox_cost_usd_total) - sum(meterbox_cost_corrected_usd_total)"


class Day:
    """The busy day: the gateway, who watches it, and what it spent in its second half."""

    def __init__(self, gateway: Gateway, prometheus: Prometheus, alertmanager: Alertmanager, hook: Receiver) -> None:
        self.gateway = gateway
        self.prometheus = prometheus
        self.alertmanager = alertmanager
        self.hook = hook
        self.between_at = 0.0
        self.first_nusd = 0
        self.nusd = 0

    def agree(self) -> int:
        """Waits until the counters tell what the ledger says; how much that is."""
        spent = loading.ledger_nusd(self.gateway)
        told = until(lambda: self._told(spent), f"the counters tell {spent} nano-dollars")
        assert told
        return spent

    def _told(self, spent: int) -> bool:
        return abs(self.prometheus.sum(CHARGED) - spent / NUSD) < 1e-8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything of this module lies."""
    return tmp_path_factory.mktemp("observed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def day(folder: Path) -> AsyncIterator[Day]:
    """Lived once for all tests of this module."""
    if lacks := missing():
        pytest.skip(lacks)
    provider, recorded, found = ScriptedProvider(), Recorded(), loading.recordings()
    await provider.start()
    await recorded.start()
    with ExitStack() as stack:
        taking, refusing, hook = (stack.enter_context(_received(status)) for status in (200, 400, 200))
        sent = SENT.format(taking=taking.origin, refusing=refusing.origin, hook=hook.origin)
        gateway = Gateway(folder, loading.config(provider, recorded, found) + sent, server='unmetered = "allow"')
        await asyncio.to_thread(stack.enter_context, gateway)
        alertmanager = Alertmanager(folder, f"{hook.origin}/am")
        stack.callback(alertmanager.stop)
        prometheus = Prometheus(folder, gateway.port, alertmanager.port)
        stack.callback(prometheus.stop)
        made = Day(gateway, prometheus, alertmanager, hook)
        await asyncio.to_thread(until, lambda: prometheus.query("meterbox_build_info"), "the first scrape")
        opened = await _live(made, provider, recorded, found)
        yield made
        opened.cancel()
        await asyncio.gather(opened, return_exceptions=True)
    await provider.stop()
    await recorded.stop()


class _received:
    """A receiver for the length of a `with`."""

    def __init__(self, status: int) -> None:
        self._status = status

    def __enter__(self) -> Receiver:
        self._made = Receiver(self._status)
        return self._made

    def __exit__(self, *_: object) -> None:
        self._made.stop()


async def _live(day: Day, provider: ScriptedProvider, recorded: Recorded, found: list[dict[str, Any]]) -> Any:
    gateway = day.gateway
    half = len(found) // 2
    await loading.replay(gateway, recorded, found[:half])
    await loading.mishaps(gateway, provider)
    opened = loading.held_open(gateway)
    day.first_nusd = await asyncio.to_thread(day.agree)
    await asyncio.sleep(2.5)  # two scrapes that show all of it: the second half begins after them
    day.between_at = time.time()
    await asyncio.sleep(1.5)
    await loading.goals(gateway)
    await loading.streams(gateway, 6)
    await loading.replay(gateway, recorded, found[half:])
    await asyncio.to_thread(_correct, gateway)
    day.nusd = await asyncio.to_thread(day.agree)
    return opened


def _correct(gateway: Gateway) -> None:
    """A person books that a call was cheaper than was charged."""
    dear = max(gateway.items("/api/runs/cut/calls"), key=lambda one: float(one["cost_usd"] or 0))
    words = ["ledger", "correct", dear["call_id"], "--usd", "-0.0001", "--id", "refund-1", "--reason", "refunded"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("METERBOX_")}
    asked = [sys.executable, "-m", "gateway", *words, "--config", str(gateway.file)]
    done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr


def _prometheus() -> Iterator[Any]:
    return (question for question in questions() if question.kind == PROMETHEUS)


async def test_every_query_of_every_panel_returns_data(day: Day) -> None:
    """Each expression says something, and each series that it reads is there (a zero for nothing doesn't count)."""
    empty: list[str] = []
    for question in _prometheus():
        expression = filled(question.expression)
        for selector in selectors(expression):
            if not day.prometheus.query(selector):
                empty.append(f"{question.name}: {selector}")
        if not await asyncio.to_thread(_within, day, bare(expression)):
            empty.append(f"{question.name}: {expression}")
    assert [] == empty


def _within(day: Day, expression: str, seconds: float = 20) -> bool:
    """Does it say a number? The last scrape may lie between two of its series."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any(one["value"][1] != "NaN" for one in day.prometheus.query(expression)):
            return True
        time.sleep(0.5)
    return False


async def test_every_question_to_the_gateway_has_an_answer(day: Day) -> None:
    """Each table of `/api` has rows, and each of its columns names a field of them."""
    chosen = {"which": "sort=-last_at"}
    empty: list[str] = []
    for question in (one for one in questions() if one.kind == INFINITY):
        run = "open" if question.target["url"].endswith("/held?limit=100") else "loop-0"
        url = filled(question.target["url"], run=run, **chosen)
        answer = await asyncio.to_thread(day.gateway.get, url)
        assert 200 == answer.status, f"{question.name}: {url}: {answer.body!r}"
        told = answer.json()
        rows = told[question.target["root_selector"]] if question.target["root_selector"] else [told]
        fields = [column["selector"] for column in question.target["columns"]]
        empty += [f"{question.name}: {field}" for field in fields if not any(_has(row, field) for row in rows)]
    assert [] == empty


def _has(row: Any, field: str) -> bool:
    for part in field.split("."):
        if not isinstance(row, dict) or part not in row:
            return False
        row = row[part]
    return True


async def test_every_choice_of_runs_is_one_that_the_gateway_knows(day: Day) -> None:
    """What the list on Runs may be set to is a query that `/api/runs` takes; the link of an agent too."""
    for variable in pages()["runs.json"]["templating"]["list"]:
        if variable["name"] == "which":
            choices = [text.split(" : ")[1] for text in variable["query"].split(", ")]
            for choice in [*choices, "agent=crawler&sort=-spent_usd"]:
                answer = await asyncio.to_thread(day.gateway.get, f"/api/runs?limit=1000&{choice}")
                assert 200 == answer.status, choice


async def test_every_filter_has_values(day: Day) -> None:
    """agent, provider and model are labels with more than one value; a panel that is filtered by one still speaks."""
    for page in pages().values():
        for variable in page["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
                assert match is not None
                values = day.prometheus.ask(f"label/{match[2]}/values", **{"match[]": match[1]})
                assert len(values) >= 2, variable["name"]
    one = filled(
        'sum(meterbox_cost_usd_total{agent=~"$agent",provider=~"$provider"})', agent="crawler", provider="scripted"
    )
    assert 0 < day.prometheus.sum(one)


async def test_tools_and_agents_keep_their_names(day: Day) -> None:
    """Also after many models of many providers the tools' page names tools and the runs' page names agents (R-108)."""

    def named() -> bool:
        tools = day.prometheus.query("count by (gen_ai_tool_name) (gen_ai_execute_tool_duration_seconds_count)")
        agents = day.prometheus.query("count by (agent) (meterbox_run_cost_usd_count)")
        return {"search", "read_page"} <= {one["metric"]["gen_ai_tool_name"] for one in tools} and {
            "research",
            "coder",
        } <= {one["metric"]["agent"] for one in agents}

    await asyncio.to_thread(until, named, "tools and agents are named", 20)


async def test_the_money_on_the_pages_is_the_ledgers(day: Day) -> None:
    """The sum over each page's question about dollars, however grouped, is what the ledger says, to the cent and below
    (R-093, R-109)."""
    asked = 0
    for question in _prometheus():
        if "meterbox_cost_usd_total" not in question.expression:
            continue
        expression = filled(bare(question.expression))
        pace = re.search(r"\* (12|730)\)?$", expression)
        expression = re.sub(r"^topk\(\d+, (.*)\)$", r"\1", expression)
        told = day.prometheus.sum(f"sum({expression})") / (float(pace[1]) if pace else 1)
        assert day.nusd / NUSD == pytest.approx(told, abs=1e-7), question.name
        asked += 1
    assert asked >= 6


async def test_the_recorded_money_is_the_ledgers(day: Day) -> None:
    """What alerts compare is the same sum, once the rules have looked again."""

    def same() -> bool:
        return abs(day.prometheus.sum("sum(meterbox:spent_usd:1h)") - day.nusd / NUSD) < 1e-7

    await asyncio.to_thread(until, same, "the rules record what the ledger says", 20)


async def test_a_window_has_exactly_what_was_spent_in_it(day: Day) -> None:
    """From an instant between two loads on: the second load's dollars, series that are new since then included."""
    await asyncio.to_thread(day.agree)
    (page,) = [one for one in _prometheus() if one.panel == "What was spent?"]
    window = f"{int(time.time() - day.between_at)}s"
    told = day.prometheus.sum(filled(bare(page.expression), window))
    assert (day.nusd - day.first_nusd) / NUSD == pytest.approx(told, abs=1e-7)
    assert 0 < day.first_nusd < day.nusd


async def test_every_recorded_figure_is_there(day: Day) -> None:
    """Each recording rule gives series, without an error."""
    rules = yaml.safe_load((FOLDER / "rules" / "recording.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    empty = [rule["record"] for rule in rules if not await asyncio.to_thread(_within, day, rule["record"])]
    assert [] == empty
    for group in day.prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert "ok" == rule["health"], rule


async def test_every_alert_looks_at_something(day: Day) -> None:
    """What an alert compares exists in the load, so that silence means that all is well."""
    for group in yaml.safe_load((FOLDER / "rules" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            for name in re.findall(r"meterbox:[\w:]+", rule["expr"]) + sorted(selectors(rule["expr"])):
                assert day.prometheus.query(name), f"{rule['alert']}: {name}"


async def test_an_alert_reaches_people(day: Day) -> None:
    """Prometheus fires, Alertmanager passes it on, with a summary and the page that helps (R-116)."""
    names = {"MeterboxSpansRejected", "MeterboxPriceMissing"}
    await asyncio.to_thread(until, lambda: names <= set(day.alertmanager.alerts()), f"{names} fire")

    def told() -> dict[str, Any]:
        bodies = [json.loads(body) for body in day.hook.bodies if b'"receiver":"people"' in body]
        return {one["labels"]["alertname"]: one for body in bodies for one in body["alerts"]}

    await asyncio.to_thread(until, lambda: names <= set(told()), "the webhook is called")
    refused = told()["MeterboxSpansRejected"]
    assert refused["annotations"]["summary"].startswith("picky refused ")
    assert (ROOT / refused["annotations"]["runbook_url"]).is_file()


async def test_a_dot_on_a_graph_leads_to_its_trace(day: Day) -> None:
    """A run's cost has an exemplar with the trace that its caller began (R-115)."""
    now = time.time()
    found = day.prometheus.ask(
        "query_exemplars", query="meterbox_run_cost_usd_bucket", start=f"{now - 3600}", end=f"{now + 10}"
    )
    traces = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
    assert any(trace.startswith(loading.TRACE[:-1]) for trace in traces), traces
