"""What tests of metrics share: ledgers with a life of their own, boards folded from them, text read by somebody else.

Invariant: every figure comes through a real ledger and its journal; the reader is prometheus-client's, which is strict.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from msgspec import structs
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.core.telemetry.changes import Changes
from gateway.core.telemetry.metrics.exposition import Page
from gateway.core.telemetry.metrics.folding import Folding
from gateway.core.types import Entry, Result, ToolCall, Usage
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, facts, order

AGENTS = ("research", "coder", None)
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5")
ENDS = ("completed", "gave_up", "failed")


class Life:
    """Calls, presumptions, late facts, corrections and ends, at random, in a real ledger."""

    def __init__(self, seed: int, runs: int = 5, turbulent: bool = True) -> None:
        """turbulent: runs end, and calls are presumed."""
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now)
        self.chance = random.Random(seed)
        self._runs = [f"r{number}" for number in range(runs)]
        self._presumed: list[tuple[str, str]] = []
        self._settled: list[tuple[str, str]] = []
        self._asked: dict[str, str] = {}
        self.turbulent = turbulent
        self._count = 0

    async def live(self, steps: int) -> MemoryStore:
        """So many things happen."""
        acts: Sequence[Callable[[], Any]] = (
            self._call, self._call, self._call, self._refuse, self._correct,
            *([self._end, self._presume, self._tell_late] if self.turbulent else []),
        )  # fmt: skip
        for _ in range(steps):
            self.clock.advance(self.chance.choice((0.01, 0.3, 2.0)))
            await self.chance.choice(acts)()
        return self.store

    def _next(self) -> tuple[str, str]:
        self._count += 1
        return f"c{self._count}", self.chance.choice(self._runs)

    def _exchange(self, call: str, run: str, cost: int, source: Any = "price_list") -> Any:
        now, chance = self.clock.now(), self.chance
        told = exchange(call, cost, source, run=run, request_model=chance.choice(MODELS), stream=chance.random() < 0.7)
        self.clock.advance(chance.random() * 30)
        told.started_at, told.ended_at = now, self.clock.now()
        told.first_at, told.chunks, told.status = now + 0.2, chance.randrange(40), 200
        told.reserve_s = chance.random() / 100
        for attempt in told.attempts:
            attempt.model, attempt.status = told.request_model, 200
            attempt.started_at, attempt.ended_at = now + 0.004, told.ended_at
        told.usage = Usage(chance.randrange(9000), chance.randrange(900), cache_read_tokens=chance.randrange(400))
        if (asked := self._asked.pop(run, None)) is not None:
            told.results = [Result(asked, None, chance.random() < 0.2, 1, 10, 1)]
        if chance.random() < 0.5:
            self._asked[run] = f"t{call}"
            told.tool_calls = [ToolCall(f"t{call}", chance.choice(("search", "shell")))]
        return told

    async def _hold(self, call: str, run: str) -> None:
        agent = AGENTS[self._runs.index(run) % len(AGENTS)]
        limit = charge(f"run/{run}/nusd", want=5_000_000_000, limit=10**15)
        await self.store.reserve(structs.replace(order(call, limit, run=run), run=facts(run, agent=agent)))

    async def _call(self) -> None:
        call, run = self._next()
        await self._hold(call, run)
        cost = self.chance.randrange(6_000_000_000)
        await self.store.settle(f"{call}/1", {"nusd": cost}, self._exchange(call, run, cost))
        self._settled.append((call, run))

    async def _presume(self) -> None:
        call, run = self._next()
        await self._hold(call, run)
        told = self._exchange(call, run, 0, "presumed")
        told.outcome, told.usage = "unknown", None
        await self.store.settle(f"{call}/1", None, told)
        self._presumed.append((call, run))

    async def _tell_late(self) -> None:
        if self._presumed:
            call, run = self._presumed.pop()
            cost = self.chance.randrange(5_000_000_000)
            await self.store.settle(f"{call}/1", {"nusd": cost}, self._exchange(call, run, cost))
            self._settled.append((call, run))

    async def _correct(self) -> None:
        if self._settled:
            call, _ = self.chance.choice(self._settled)
            self._count += 1
            delta = self.chance.randrange(-4_000_000_000, 1_000_000_000)
            await self.store.correct(f"{call}/1", delta, "refund", "me", f"x{self._count}")

    async def _end(self) -> None:
        run = self.chance.choice(self._runs)
        outcome = self.chance.choice((*ENDS, None))
        if outcome is None:
            await self.store.end_run(run, "killed", None, "enough", self.clock.now())
            await self.store.end_run(run, "active", None, None, self.clock.now())
        else:
            await self.store.end_run(run, "ended", outcome, "done", self.clock.now())

    async def _refuse(self) -> None:
        call, run = self._next()
        told = self._exchange(call, run, 0, "refused")
        told.outcome, told.usage, told.reason, told.attempts = "refused", None, "insufficient_quota", []
        await self.store.settle(None, None, told)


def folded(store: Any, entries: Sequence[Entry] | None = None, folding: Folding | None = None) -> Folding:
    """The whole journal, or these entries, in one batch."""
    reading = store.reading()
    folding = folding or Folding()
    folding.fold(reading.entries(0, limit=1_000_000) if entries is None else entries, Changes(reading))
    return folding


def text_of(folding: Folding) -> str:
    """What is folded, as text."""
    return Page().render(folding.board, {})


@lru_cache(maxsize=8)
def read(text: str) -> dict[str, Metric]:
    """Families as prometheus-client's parser sees them."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text: str, name: str, **labels: str) -> list[float]:
    """Values of the samples of that name with at least these labels."""
    return [
        sample.value
        for family in read(text).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def total(text: str, name: str, **labels: str) -> float:
    """Their sum."""
    return sum(samples(text, name, **labels))


def cut(items: Sequence[Any], chance: random.Random) -> Iterable[Sequence[Any]]:
    """In order, in batches of any size."""
    at = 0
    while at < len(items):
        many = chance.choice((1, 1, 2, 3, 7, 50))
        yield items[at : at + many]
        at += many
