"""The metrics projection: once each, over kills; a file that is whole, fresh and bounded."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from gateway.core.errors import StoreFailed
from gateway.core.presets import PRESETS
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.metrics import families
from gateway.core.telemetry.metrics.families import NONE
from gateway.core.telemetry.settings import MetricRules, Watched
from gateway.core.telemetry.spans.span import Section
from gateway.projections.metrics import Metrics, Shown
from gateway.rules.budget import Budget
from gateway.stores.memory import MemoryStore
from gateway.stores.notebook import SqliteNotebook
from tests.core.telemetry.metrics.metering import Life, cut, read, samples, total
from tests.fakes import Scripted
from tests.ledgers import charge, exchange, facts, opened, order, sqlite
from tests.walking import DOLLAR, World, provider
from tests.wire import recorded

AT = 1_800_000_000.0
METERED = ("openai-chat", "openai-responses", "openai-completions", "openai-embeddings", "anthropic-messages")


class Killed(BaseException):
    """The process ends between two lines."""


class Fragile(SqliteNotebook):
    """Fails at the write after `good` more."""

    good = 10**9
    error: BaseException = StoreFailed("the disk is full")

    def write(self, *told: Any) -> None:
        self.good -= 1
        if self.good < 0:
            self.good = 10**9
            raise self.error
        super().write(*told)


def metrics(folder: Path, store: Any, notebook: SqliteNotebook | None = None, **shown: Any) -> Metrics:
    """The projection over a notebook on disk."""
    notebook = notebook or SqliteNotebook(folder / "metrics.sqlite3")
    return Metrics(notebook, store.reading(), Health(), Shown(**shown), folder / "metrics.txt")


def caught_up(one: Metrics, store: Any, chance: random.Random | None = None) -> str:
    """Everything that it has not read, and the text."""
    entries = store.reading().entries(one.cursor, limit=10**6)
    for batch in cut(entries, chance) if chance else [entries]:
        one.apply(batch)
    return one.text(AT)


# --------------------------------------------------------------------------- the ledger


async def traffic(tmp_path: Path) -> World:
    """All recorded exchanges through the real pipeline, eleven to a run, three agents, one that is soon refused."""
    chance = random.Random(7)
    world = World(
        budgets=[Budget("ten", 10 * DOLLAR, 10 * DOLLAR), Budget("few", 6, 6, unit="calls")], refuse_unknown=False
    )
    count = 0
    for dialect in METERED:
        for row in recorded.exchanges(dialect):
            body = recorded.inbound_of(row).body
            if row["method"] != "POST" or not body or row["response_body_base64"]:
                continue
            answer = (row["response_body"] or "").encode()
            events = row["response_headers"].get("content-type", "").startswith("text/event-stream")
            kind = "text/event-stream" if events else "application/json"
            chunks = [answer[at : at + 700] for at in range(0, len(answer), 700)]
            world.upstream.scripts[:] = [Scripted(row["status"], (("content-type", kind),), chunks)]
            section = provider(row["provider"]) if row["provider"] in PRESETS else provider()
            world.clock.advance(chance.random())
            agent = ("research", "coder", "intern")[count % 3]
            await world.call(
                body, row["path"].partition("?")[0], provider=section, run=f"r{count // 11}", x_meterbox_agent=agent
            )
            count += 1
    assert count > 300
    for call in world.calls[::9]:  # refunds, and a provider's corrections in either direction
        await world.store.correct(f"{call.call_id}/1", chance.randrange(-(10**7), 10**6), "refund", "me", call.call_id)
    for run in list(world.store.book.runs)[::2]:
        await world.store.end_run(run, "ended", None, None, 0.0)
    return world


@pytest.mark.shared
async def test_recorded_traffic_sums_up_to_the_ledger(tmp_path):
    """Money to the nano-dollar, tokens, calls and refusals, by agent, and by model
    as far as there is room (R-093, R-099, R-109)."""
    world = await traffic(tmp_path)
    one = metrics(tmp_path, world.store)
    text = caught_up(one, world.store)
    runs = list(world.store.book.runs.values())

    def spent(**labels: str) -> int:
        cost = total(text, "meterbox_cost_usd_total", **labels)
        return round((cost - total(text, "meterbox_cost_corrected_usd_total", **labels)) * 10**9)

    assert sum(run.own_spent_nusd for run in runs) == spent() > 10**6
    by_agent: dict[str, int] = defaultdict(int)
    for run in runs:
        by_agent[run.agent or NONE] += run.own_spent_nusd
    assert by_agent == {agent: spent(agent=agent) for agent in by_agent}
    reading = world.store.reading()
    by_model: dict[str, int] = defaultdict(int)
    for run in runs:
        for call in reading.calls(run.key, limit=1000)[0]:
            by_model[call.request_model] += call.cost_nusd or 0
    named = {sample.labels["model"] for sample in read(text)["meterbox_cost_usd"].samples} & by_model.keys()
    assert all(by_model[model] >= spent(model=model) >= 0 for model in named), "the rest of it is `other`"
    assert len([model for model in named if by_model[model] == spent(model=model)]) > 15
    for word in ("input", "output", "cache_read", "cache_write", "reasoning"):
        told = sum(getattr(run, f"{word}_tokens") for run in runs)
        back = total(text, "meterbox_tokens_corrected_total", type=word)
        assert told == total(text, "meterbox_tokens_total", type=word) - back
    outcomes: dict[str, int] = defaultdict(int)
    for call in world.calls:
        outcomes[call.outcome] += 1
    assert outcomes == {word: total(text, "meterbox_requests_total", outcome=word) for word in outcomes}
    assert outcomes["refused"] > 10
    refused = sum(call.limited is not None for call in world.calls)
    assert refused == total(text, "meterbox_budget_denied_total", scope="run") > 10
    assert sum(run.state == "ended" for run in runs) == total(text, "meterbox_runs_finished_total")
    assert sum(run.state == "active" for run in runs) == total(text, "meterbox_runs_active")
    assert text.count("\n") <= families.LINES_MOST


# --------------------------------------------------------------------------- once


@pytest.mark.parametrize("seed", range(6))
async def test_a_kill_between_folding_and_writing_counts_nothing_twice(tmp_path, seed):
    """The process ends at random writes and begins again from what is on disk: the text is that of one that lived."""
    life = Life(seed)
    store = await life.live(150)
    whole = caught_up(metrics(tmp_path, store, SqliteNotebook(tmp_path / "whole.sqlite3")), store)
    path, kills = tmp_path / "killed.sqlite3", 0
    while True:
        notebook = Fragile(path)
        notebook.good, notebook.error = life.chance.randrange(4), Killed()
        one = metrics(tmp_path, store, notebook)
        try:
            text = caught_up(one, store, life.chance)
        except Killed:
            kills += 1
            notebook.close()
            continue
        break
    assert kills > 2
    assert whole == text


async def test_a_write_that_fails_leaves_the_memory_as_the_notebook_is(tmp_path):
    """The same process gets the same batch again."""
    store = await Life(3).live(60)
    notebook = Fragile(tmp_path / "metrics.sqlite3")
    one = metrics(tmp_path, store, notebook)
    entries = store.reading().entries(0, limit=10**6)
    one.apply(entries[:20])
    notebook.good = 0
    with pytest.raises(StoreFailed):
        one.apply(entries[20:])
    assert 20 == one.cursor
    one.apply(entries[20:])
    fresh = metrics(tmp_path, store, SqliteNotebook(tmp_path / "other.sqlite3"))
    assert caught_up(fresh, store) == one.text(AT)


async def test_a_new_process_goes_on_where_the_last_one_stopped(tmp_path):
    """Counters never reset; the cursor is the projection's own."""
    life = Life(4)
    store = await life.live(80)
    caught_up(metrics(tmp_path, store), store)
    await life.live(80)
    again = metrics(tmp_path, store)
    assert 0 < again.cursor < len(store.journal)
    text = caught_up(again, store)
    assert len(store.journal) == again.cursor
    assert caught_up(metrics(tmp_path, store, SqliteNotebook(tmp_path / "fresh.sqlite3")), store) == text


async def test_a_ledger_on_disk_is_read_as_one_in_memory(tmp_path):
    """SQLite, through the connection that a reader has."""
    world = sqlite(tmp_path, Life(0).clock)
    async with opened(world) as store:
        for number in range(9):
            known = structs.replace(order(f"c{number}", charge("run/R/nusd", limit=10**12)), run=facts("R", agent="a"))
            await store.reserve(known)
            await store.settle(f"c{number}/1", {"nusd": number}, exchange(f"c{number}", number))
        await store.correct("c8/1", -3, "refund", "me", "x")
        text = caught_up(metrics(tmp_path, store), store)
    spent = total(text, "meterbox_cost_usd_total", agent="a") - total(
        text, "meterbox_cost_corrected_usd_total", agent="a"
    )
    assert 33e-9 == pytest.approx(spent, abs=1e-18)
    assert [1] == samples(text, "meterbox_runs_active", agent="a")


# --------------------------------------------------------------------------- the file


async def test_the_file_is_made_at_most_once_a_second_and_at_least_every_ten(tmp_path):
    """At once at the start; then when something changed, and when nothing did for ten seconds."""
    store = await Life(5).live(30)
    one, file = metrics(tmp_path, store), tmp_path / "metrics.txt"
    made: list[float] = []
    for tenth in range(0, 260):
        now = AT + tenth / 10
        if tenth in (3, 5, 7, 30):
            one.apply(store.reading().entries(one.cursor, limit=5))
        assert 0 < one.tick(now) <= 1
        if file.exists():
            made.append(now - AT)
            file.unlink()
    assert [0.0, 1.0, 3.0, 13.0, 23.0] == [round(at, 1) for at in made]


async def test_a_projection_that_starts_later_is_shown_soon(tmp_path):
    """After a restart counters of destinations and channels come back within a second, not with the next ten."""
    health, file = Health(), tmp_path / "metrics.txt"
    one = Metrics(SqliteNotebook(tmp_path / "m.sqlite3"), MemoryStore(lambda: AT).reading(), health, Shown(), file)
    one.tick(AT)
    health.tell("otlp-lab", sent=102)
    one.tick(AT + 1)
    assert 102 == total(file.read_text(), "meterbox_spans_exported_total", destination="lab")
    written = file.stat().st_mtime_ns
    health.tell("otlp-lab", sent=103)
    one.tick(AT + 2)
    assert written == file.stat().st_mtime_ns  # what it does is no news by itself: an idle gateway rests


async def test_a_clock_that_steps_back_keeps_nobody_waiting(tmp_path):
    """An hour back: the file is made anew at once."""
    store = await Life(5).live(3)
    one, file = metrics(tmp_path, store), tmp_path / "metrics.txt"
    one.tick(AT)
    file.unlink()
    one.tick(AT - 3600)
    assert file.exists()


async def test_the_file_is_replaced_whole(tmp_path):
    """A reader that has it open reads the old one to its end; nothing half-made lies at its place."""
    store = await Life(5).live(30)
    one, file = metrics(tmp_path, store), tmp_path / "metrics.txt"
    one.tick(AT)
    before = file.read_text(encoding="utf-8")
    held = tmp_path / "held"
    held.hardlink_to(file)  # who has it open
    caught_up(one, store)
    one.tick(AT + 1)
    assert before == held.read_text(encoding="utf-8")
    assert before != file.read_text(encoding="utf-8")
    assert not list(tmp_path.glob(".*"))


async def test_a_folder_that_is_gone_is_a_failure_that_is_said(tmp_path):
    """StoreFailed, and the next tick tries again."""
    store = MemoryStore(lambda: AT)
    one = Metrics(
        SqliteNotebook(tmp_path / "m.sqlite3"), store.reading(), Health(), Shown(), tmp_path / "gone" / "metrics.txt"
    )
    for _ in range(2):
        with pytest.raises(StoreFailed, match=r"metrics\.txt can't be written"):
            one.tick(AT)
    (tmp_path / "gone").mkdir()
    one.tick(AT)
    assert (tmp_path / "gone" / "metrics.txt").exists()


async def test_what_is_known_beside_the_journal_is_shown(tmp_path):
    """Sections, budgets, version, and how the projections fare."""
    store = MemoryStore(lambda: AT)
    known = structs.replace(order("c1", charge("run/R/nusd", limit=10**12)), run=facts("R", agent="a"))
    await store.reserve(known)
    told = exchange("c1", 5, provider="mine")
    told.started_at, told.ended_at = AT, AT + 1
    await store.settle("c1/1", {"nusd": 5}, told)
    one = metrics(
        tmp_path,
        store,
        rules=MetricRules(version="1.2.3"),
        sections={"mine": Section("azure", "mine.openai.azure.com", 443)},
        budgets=(Watched("ten", "run", "nusd", 10 * 10**9),),
    )
    one._health.tell("otlp-tempo", sent=12, behind_bytes=99)
    found = read(caught_up(one, store))
    assert {"version": "1.2.3"} == found["meterbox_build"].samples[0].labels
    assert [10.0] == [sample.value for sample in found["meterbox_budget_limit_usd"].samples]
    assert [5e-9] == [sample.value for sample in found["meterbox_budget_spent_usd"].samples]
    assert [12.0] == [sample.value for sample in found["meterbox_spans_exported"].samples]
    labels = found["gen_ai_server_request_duration_seconds"].samples[0].labels
    assert ("azure.ai.openai", "mine.openai.azure.com", "443") == (
        labels["gen_ai_provider_name"],
        labels["server_address"],
        labels["server_port"],
    )


async def test_budgets_stand_as_before_after_a_restart(tmp_path):
    """Whose account is the nearest is known again from the newest calls; a run that ended is not among them."""
    store = MemoryStore(lambda: AT)
    for run, cost in (("R1", 7), ("R2", 50), ("R3", 90)):
        await store.reserve(order(f"c-{run}", charge(f"run/{run}/nusd", limit=10**12), run=run))
        await store.settle(f"c-{run}/1", {"nusd": cost}, exchange(f"c-{run}", cost, run=run))
    await store.end_run("R3", "ended", None, None, 0.0)
    budgets = (Watched("ten", "run", "nusd", 100),)
    first = caught_up(metrics(tmp_path, store, budgets=budgets), store)
    assert [50e-9] == samples(first, "meterbox_budget_spent_usd")
    assert first == metrics(tmp_path, store, budgets=budgets).text(AT)


async def test_an_empty_batch_moves_nothing(tmp_path):
    """The driver may hand in none."""
    one = metrics(tmp_path, MemoryStore(lambda: AT))
    one.apply([])
    assert 0 == one.cursor


async def test_the_notebook_and_the_text_stay_bounded(tmp_path):
    """However many runs, agents, models, keys and tools there were: rows by the number of series and what is kept."""
    store = MemoryStore(lambda: AT)
    for number in range(400):
        run = f"k{number}~r{number}"
        known = order(f"c{number}", charge(f"run/{run}/nusd", limit=10**12), run=run)
        named = structs.replace(facts(run, agent=f"agent {number}", user=f"u{number}"), tenant=f"k{number}")
        await store.reserve(structs.replace(known, run=named))
        told = exchange(f"c{number}", number, run=run, provider=f"p{number}", request_model=f"m{number}")
        await store.settle(f"c{number}/1", {"nusd": number}, told)
        await store.end_run(run, ("ended", "killed")[number % 2], None, None, 0.0)
    one = metrics(tmp_path, store)
    text = caught_up(one, store)
    assert text.count("\n") <= families.LINES_MOST
    rows = [key for key, _ in SqliteNotebook(tmp_path / "metrics.sqlite3").all() if not key.startswith("ended/")]
    assert len(rows) <= sum(family.most for family in families.FOLDED) + 1
    assert sum(range(400)) * 10**-9 == pytest.approx(total(text, "meterbox_cost_usd_total"))
