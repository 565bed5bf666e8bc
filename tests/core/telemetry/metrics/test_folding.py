"""The journal folded: sums that equal the ledger, whatever happened in it and however it was read."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.core import tools
from gateway.core.telemetry.changes import Changes
from gateway.core.telemetry.metrics import families, folding
from gateway.core.telemetry.metrics.families import NONE, OTHER
from gateway.core.telemetry.metrics.folding import Folding, result_of
from gateway.core.types import Attempt, Limited, Result, ToolCall, Usage
from gateway.stores.memory import MemoryStore
from tests.core.telemetry.metrics.metering import Life, cut, folded, read, samples, text_of, total
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, facts, order

NUSD = 10**9


def money(folding: Folding) -> dict[tuple[str, ...], int]:
    """Cost less corrected, label by label."""
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for one in folding.board.of(families.COST):
        found[one.labels] += one.total
    for one in folding.board.of(families.CORRECTED):
        found[one.labels] -= one.total
    return found


def grouped(store: MemoryStore, whose: Any) -> dict[Any, int]:
    """What runs spent themselves, summed up."""
    found: dict[Any, int] = defaultdict(int)
    for run in store.book.runs.values():
        found[whose(run)] += run.own_spent_nusd
    return {name: amount for name, amount in found.items() if amount}


# --------------------------------------------------------------------------- money


@pytest.mark.parametrize("seed", range(4))
async def test_cost_less_corrected_is_the_ledger_to_the_nano_dollar(seed):
    """Presumed and told later, corrected up and down, refused, reopened (R-093, R-109)."""
    store = await Life(seed).live(400)
    one = folded(store)
    ledger = sum(run.own_spent_nusd for run in store.book.runs.values())
    assert ledger == sum(money(one).values())
    assert total(text_of(one), "meterbox_cost_corrected_usd_total") > 0, "nothing was ever given back in this life"
    by_agent: dict[str, int] = defaultdict(int)
    for (_, agent, _, _), amount in money(one).items():
        by_agent[agent] += amount
    assert grouped(store, lambda run: run.agent or NONE) == {
        name: amount for name, amount in by_agent.items() if amount
    }


@pytest.mark.parametrize("seed", range(4))
async def test_tokens_less_corrected_are_the_runs_own(seed):
    """Counters and per-run values agree with the ledger (R-109)."""
    store = await Life(seed).live(400)
    text = text_of(folded(store))
    for word in ("input", "output", "cache_read"):
        runs = sum(getattr(run, f"{word}_tokens") for run in store.book.runs.values())
        told = total(text, "meterbox_tokens_total", type=word) - total(
            text, "meterbox_tokens_corrected_total", type=word
        )
        assert runs == told > 0


async def test_no_counter_ever_falls_and_twins_appear_together():
    """Entry by entry (OpenMetrics: a counter is monotonic; Prometheus takes a fall for a restart)."""
    store = await Life(11).live(300)
    reading = store.reading()
    one, changes = Folding(), Changes(reading)
    before: dict[tuple[str, tuple[str, ...]], int] = {}
    for entry in reading.entries(0, limit=10_000):
        one.fold([entry], changes)
        now = {(f.name, s.labels): s.total + sum(s.counts) for f in families.FOLDED for s in one.board.of(f)}
        assert all(now[key] >= value for key, value in before.items())
        paid, back = one.board.of(families.COST), one.board.of(families.CORRECTED)
        assert [series.labels for series in paid] == [series.labels for series in back]
        before = now


async def test_a_call_that_is_booked_elsewhere_later_is_given_back_there():
    """A lost call whose answer tells another provider: label by label the sums are right."""
    store = await started()
    await store.settle("c1/1", None, exchange("c1", 0, "presumed"))
    told = exchange("c1", 30, provider="azure")
    await store.settle("c1/1", {"nusd": 30}, told)
    found = money(folded(store))
    assert {"openai": 0, "azure": 30} == {labels[2]: amount for labels, amount in found.items()}


async def started(call: str = "c1", run: str = "R", agent: str | None = None, **more: Any) -> MemoryStore:
    """A ledger in which one call holds 100."""
    store = MemoryStore(FakeClock().now)
    await held(store, call, run, agent, **more)
    return store


async def held(store: MemoryStore, call: str, run: str = "R", agent: str | None = None, **more: Any) -> None:
    known = order(call, charge(f"run/{run}/nusd", limit=10**12, **more), run=run)
    await store.reserve(structs.replace(known, run=facts(run, agent=agent)))


# --------------------------------------------------------------------------- once


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 60))
def test_batches_and_restarts_of_any_size_give_the_same_text(seed, steps):
    """Rows are written after some batches, a new process begins from them after some: nothing counts twice."""
    life = Life(seed)
    store = asyncio.run(life.live(steps))
    reading = store.reading()
    entries = reading.entries(0, limit=100_000)
    rows: dict[str, bytes] = {}
    one = Folding()
    for batch in cut(entries, life.chance):
        for attempt in ("killed", "whole") if life.chance.random() < 0.3 else ("whole",):
            one.fold(batch, Changes(reading))
            if attempt == "killed":
                one = Folding(sorted(rows.items()))
                continue
            for key, row in one.changed().items():
                rows.pop(key, None)
                rows |= {key: row} if row is not None else {}
            if life.chance.random() < 0.5:
                one = Folding(sorted(rows.items()))
    assert text_of(folded(store)) == text_of(one)


# --------------------------------------------------------------------------- calls


async def test_calls_are_counted_once_by_how_they_ended():
    """What is learnt later of a call moves its money, not its place."""
    store = await started(agent="coder")
    lost = exchange("c1", 0, "presumed")
    lost.usage = None
    await store.settle("c1/1", None, lost)
    told = exchange("c1", 30)
    told.usage = Usage(input_tokens=5, output_tokens=7)
    await store.settle("c1/1", {"nusd": 30}, told)
    text = text_of(folded(store))
    assert {("unknown", "coder", "m"): 1.0} == {
        (s.labels["outcome"], s.labels["agent"], s.labels["model"]): s.value
        for s in read(text)["meterbox_requests"].samples
    }
    events = {s.labels["event"]: s.value for s in read(text)["meterbox_ledger_events"].samples if s.value}
    assert {"presumed": 1, "trueup": 1} == events
    assert [1] == samples(text, "meterbox_usage_estimated_total")
    assert [5] == samples(text, "gen_ai_client_token_usage_sum", gen_ai_token_type="input")


async def test_refusals_cuts_and_prices_that_are_missing():
    """Each has its counter, with words of ours only."""
    store = await started()
    denied = exchange("c2", 0, "refused", reason="limit_calls", reserve_s=0.003)
    denied.limited = Limited("agent/coder/calls/2026-11-20", "agent:coder", "calls")
    other = exchange("c3", 0, "refused", reason="price_unknown", request_model="made-up")
    broken = exchange("c4", 0, "refused", reason="no word of ours")
    broken.limited = Limited("x", "someone's own", "calls")
    cut_off = exchange("c1", 130, "estimate", outcome="cut", reason="budget_ended", estimated=True, clamped=9)
    for told in (denied, other, broken):
        await store.settle(None, None, told)
    await store.settle("c1/1", {"nusd": 130}, cut_off)
    text = text_of(folded(store))
    assert {("agent", "limit_calls"): 1, (OTHER, OTHER): 1} == {
        (s.labels["scope"], s.labels["reason"]): s.value for s in read(text)["meterbox_budget_denied"].samples
    }
    assert [1] == samples(text, "meterbox_stream_cut_total", reason="budget_ended")
    assert [1] == samples(text, "meterbox_price_missing_total", model=OTHER)
    assert [1] == samples(text, "meterbox_usage_estimated_total", model="m")
    assert [30e-9] == samples(text, "meterbox_overrun_usd_total")
    assert [1] == samples(text, "meterbox_ledger_events_total", event="overrun")
    assert [1] == samples(text, "meterbox_ledger_events_total", event="clamped")
    assert [0.003] == samples(text, "meterbox_reserve_seconds_sum")


async def test_a_correction_is_no_overrun():
    """No call wrote past its hold then."""
    store = await started()
    await store.settle("c1/1", {"nusd": 100}, exchange("c1", 100))
    await store.correct("c1/1", 50, "the invoice says so", "me", "x1")
    text = text_of(folded(store))
    assert [0] == samples(text, "meterbox_overrun_usd_total")
    assert [150e-9] == samples(text, "meterbox_cost_usd_total")
    assert [1] == samples(text, "meterbox_ledger_events_total", event="correct")


async def test_a_model_has_a_name_once_it_was_charged_at_a_price():
    """Nobody fills the places with names that no provider knows (contract 6.3: unknown models are `other`)."""
    store = await started()
    for number in range(80):
        told = exchange(f"u{number}", None, "unknown_model", request_model=f"invented-{number}")
        await store.settle(None, None, told)
        refused = exchange(f"v{number}", 0, "refused", request_model=f"made-up-{number}")
        await store.settle(None, None, refused)
    await store.settle("c1/1", {"nusd": 1}, exchange("c1", 1, request_model="gpt-4o"))
    await store.settle(None, None, exchange("w", 0, "refused", request_model="gpt-4o"))
    text = text_of(folded(store))
    assert {"gpt-4o", OTHER} == {s.labels["model"] for s in read(text)["meterbox_requests"].samples}
    assert 160 == total(text, "meterbox_requests_total", model=OTHER)
    assert [1] == samples(text, "meterbox_requests_total", model="gpt-4o", outcome="refused")


async def test_keys_agents_and_providers_are_capped():
    """Sixty of each: fifty places, and `other`; histograms know four agents (contract 6.3)."""
    store = MemoryStore(FakeClock().now)
    for number in range(60):
        run = f"k{number}~r"
        known = order(f"c{number}", charge(f"run/{run}/nusd", limit=10**12), run=run)
        facts_of = structs.replace(facts(run, agent=f"a{number}"), tenant=f"k{number}")
        await store.reserve(structs.replace(known, run=facts_of))
        told = exchange(f"c{number}", 1, run=run, provider=f"p{number}", request_model=f"m{number}")
        await store.settle(f"c{number}/1", {"nusd": 1}, told)
        await store.end_run(run, "ended", "completed", "", 0.0)
    text = text_of(folded(store))
    found = read(text)
    for family, label, most in (
        ("meterbox_cost_usd", "key", 51), ("meterbox_cost_usd", "agent", 51), ("meterbox_cost_usd", "model", 51),
        ("meterbox_runs_finished", "agent", 51), ("meterbox_run_cost_usd", "agent", 5),
        ("gen_ai_usage_cost_USD", "gen_ai_request_model", 5),
    ):  # fmt: skip
        names = {sample.labels[label] for sample in found[family].samples}
        assert OTHER in names and most >= len(names) > most - 3, (family, label)
    assert 60e-9 == pytest.approx(total(text, "meterbox_cost_usd_total"))
    assert 60 == total(text, "meterbox_runs_finished_total")
    assert 60 == total(text, "meterbox_run_cost_usd_count")
    assert text.count("\n") <= families.LINES_MOST


async def test_lists_and_counts_are_requests_without_a_duration():
    """What asks no model is no operation of the conventions."""
    store = await started()
    await store.settle("c1/1", {"nusd": 0}, exchange("c1", 0, operation="list"))
    text = text_of(folded(store))
    assert 1 == total(text, "meterbox_requests_total")
    assert "gen_ai_server_request_duration_seconds" not in text


@pytest.mark.parametrize(
    ("status", "outcome", "word"),
    [
        (200, "ok", "ok"), (None, "upstream_error", "connection_error"), (200, "upstream_error", "broken"),
        (429, "upstream_error", "rate_limited"), (529, "upstream_error", "overloaded"),
        (503, "upstream_error", "overloaded"), (500, "upstream_error", "server_error"),
        (404, "upstream_error", "client_error"), (200, "cut", "cut"), (None, "client_left", "client_left"),
    ],
)  # fmt: skip
def test_tries_have_a_result_in_one_word(status, outcome, word):
    """A closed list."""
    assert word == result_of(Attempt("p", "m", status, outcome)) in folding.RESULTS


async def test_limits_and_thresholds_are_events():
    """What a person or the ledger did beside calls."""
    store = await started()
    await store.set_limit("run/R/nusd", 5)
    assert [1] == samples(text_of(folded(store)), "meterbox_ledger_events_total", event="limit")


# --------------------------------------------------------------------------- runs


async def ended(store: MemoryStore, state: str, outcome: str | None = None, run: str = "R") -> None:
    await store.end_run(run, state, outcome, "why", 0.0)


async def test_a_reopened_run_observes_what_came_new():
    """Sums over all ends are what the runs spent; a kill after the end is no second end."""
    clock = FakeClock()
    store = MemoryStore(clock.now)
    for call, cost, seconds in (("c1", 40, 3.0), ("c2", 2, 5.0)):
        await held(store, call, agent="coder")
        clock.advance(seconds)
        told = exchange(call, cost)
        told.started_at, told.ended_at = clock.now() - 1, clock.now()
        await store.settle(f"{call}/1", {"nusd": cost}, told)
        await ended(store, "ended", "completed")
    await ended(store, "killed")
    text = text_of(folded(store))
    assert [2] == samples(text, "meterbox_runs_finished_total", agent="coder", outcome="completed")
    assert [42e-9] == samples(text, "meterbox_run_cost_usd_sum")
    assert [2] == samples(text, "meterbox_run_steps_sum")
    assert [8] == samples(text, "meterbox_run_duration_seconds_sum")
    assert [8] == samples(text, "gen_ai_invoke_agent_duration_seconds_sum", gen_ai_agent_name="coder")
    exemplars = [s.exemplar for s in read(text)["meterbox_run_cost_usd"].samples if s.exemplar]
    assert {"R"} == {exemplar.labels["run_id"] for exemplar in exemplars}
    assert all(32 == len(exemplar.labels["trace_id"]) for exemplar in exemplars)


@pytest.mark.parametrize(
    ("state", "outcome", "error"),
    [
        ("ended", "completed", None), ("ended", "gave_up", None), ("ended", "abandoned", None),
        ("ended", "failed", "_OTHER"), ("ended", "stopped_by_limit", "budget_exceeded"), ("killed", None, "run_killed"),
    ],
)  # fmt: skip
async def test_runs_fail_by_a_closed_list(state, outcome, error):
    """`error_type` is there where a run failed."""
    store = await started(agent="coder")
    await ended(store, state, outcome)
    found = [
        s
        for s in read(text_of(folded(store)))["gen_ai_invoke_agent_duration_seconds"].samples
        if s.name[-5:] == "count"
    ]
    assert [error] == [sample.labels.get("error_type") for sample in found]


async def test_ended_runs_in_mind_are_bounded(monkeypatch):
    """The oldest are forgotten, in the rows too."""
    monkeypatch.setattr(folding, "ENDED_MOST", 3)
    store = MemoryStore(FakeClock().now)
    for number in range(5):
        await held(store, f"c{number}", f"r{number}")
        await store.settle(f"c{number}/1", {"nusd": 1}, exchange(f"c{number}", 1, run=f"r{number}"))
        await ended(store, "ended", run=f"r{number}")
    one = folded(store)
    rows = {key for key, row in one.changed().items() if row is not None and key.startswith("ended/")}
    assert {"ended/r2", "ended/r3", "ended/r4"} == rows


# --------------------------------------------------------------------------- tools


async def asks(store: MemoryStore, call: str, at: float, tools: list[ToolCall], results: list[Result]) -> None:
    await held(store, call)
    told = exchange(call, 1)
    told.started_at, told.ended_at, told.tool_calls, told.results = at, at + 1, tools, results
    await store.settle(f"{call}/1", {"nusd": 1}, told)


async def test_tools_last_from_the_answer_that_asked_to_the_request_with_the_result():
    """As core/tools.py joins them: by id, of the latest answer its first; without an id by name."""
    store = MemoryStore(FakeClock().now)
    known = ToolCall("t1", "search")
    await asks(store, "c1", 100.0, [known, ToolCall("", "shell"), ToolCall("t3", "hidden", known=False)], [])
    await asks(store, "c2", 103.0, [known], [Result("t1", None, False, 1, 1, 1), Result("", "shell", True, 1, 1, 2)])
    await asks(store, "c3", 110.0, [], [Result("t1", None, False, 1, 1, 3), Result("t3", None, False, 1, 1, 4)])
    await asks(store, "c4", 120.0, [], [Result("t1", None, False, 1, 1, 3)])
    text = text_of(folded(store))
    assert [8.0] == samples(text, "gen_ai_execute_tool_duration_seconds_sum", gen_ai_tool_name="search")
    assert [2] == samples(text, "gen_ai_execute_tool_duration_seconds_count", gen_ai_tool_name="search")
    assert [2.0] == samples(
        text, "gen_ai_execute_tool_duration_seconds_sum", gen_ai_tool_name="shell", error_type="tool_error"
    )
    assert [9.0] == samples(text, "gen_ai_execute_tool_duration_seconds_sum", gen_ai_tool_name=OTHER)


async def test_a_result_closes_the_latest_tool_call_of_its_id():
    """Ids repeat within real runs; one that was never answered stays open."""
    store = MemoryStore(FakeClock().now)
    known = ToolCall("t1", "search")
    await asks(store, "c1", 100.0, [known], [])
    await asks(store, "c2", 200.0, [known], [])
    await asks(store, "c3", 203.0, [], [Result("t1", None, False, 1, 1, 1)])
    text = text_of(folded(store))
    assert [2.0] == samples(text, "gen_ai_execute_tool_duration_seconds_sum", gen_ai_tool_name="search")


async def test_open_tools_are_bounded(monkeypatch):
    """Of one run and of all runs together; an ended run waits for none."""
    monkeypatch.setattr(folding, "CALLING_MOST", 2)
    store = MemoryStore(FakeClock().now)
    many = [ToolCall(f"t{number}", "search") for number in range(100)]
    for run in ("r1", "r2", "r3"):
        await held(store, f"c-{run}", run)
        told = exchange(f"c-{run}", 1, run=run)
        told.tool_calls = many
        await store.settle(f"c-{run}/1", {"nusd": 1}, told)
    await ended(store, "ended", run="r2")
    one = folded(store)
    assert {"tools/r3"} == {key for key, row in one.changed().items() if row is not None and key.startswith("tools/")}
    assert folding.OPEN_MOST == len(one._open.get("r3") or ())


async def test_as_many_tools_are_closed_as_the_api_closes():
    """On a random life without ends, which forget what is open."""
    store = await Life(5, turbulent=False).live(300)
    reading = store.reading()
    spans = [span for run in store.book.runs for span in tools.spans(reading.calls(run, limit=1000)[0])]
    closed = sum(span.ended_at is not None for span in spans)
    assert closed == total(text_of(folded(store)), "gen_ai_execute_tool_duration_seconds_count") > 20
