"""What tests of spans share: a run in a memory ledger, its entries woven into spans, a notebook that forgets nothing.

Invariant: everything goes through the real ledger and the real notebook; only time stands still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.json import encode

from gateway.core.telemetry.spans.span import Section, Span, Wishes
from gateway.core.telemetry.spans.weave import Weaver, Woven
from gateway.core.types import (
    Asked,
    Attempt,
    Content,
    Exchange,
    Limited,
    Result,
    Run,
    ToolCall,
    Usage,
)
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, facts, order

SECTIONS = {"openai": Section("openai", "api.openai.com", 443)}
WISHES = Wishes(sections=SECTIONS)
AT = 1_800_000_000.0


class MemoryNotebook:
    """A notebook that lives as long as the test."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.at = 0

    @property
    def cursor(self) -> int:
        return self.at

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def all(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        yield from sorted((key, value) for key, value in self.kept.items() if key.startswith(prefix))

    def write(self, changes: Mapping[str, bytes | None], cursor: int | None = None) -> None:
        for key, value in changes.items():
            if value is None:
                self.kept.pop(key, None)
            else:
                self.kept[key] = value
        self.at = self.at if cursor is None else cursor


class World:
    """A ledger, and a weaver that reads its journal."""

    def __init__(self, wishes: Wishes = WISHES, records: bool = True) -> None:
        self.clock = FakeClock(AT)
        self.store = MemoryStore(self.clock.now)
        self.notebook = MemoryNotebook()
        self.wishes, self.records = wishes, records
        self.weaver = self.fresh()

    def fresh(self) -> Weaver:
        """Another weaver over the same notebook: a restart."""
        return Weaver(self.store.reading(), self.notebook, self.wishes, self.records)

    async def call(self, name: str, cost: int | None = 40, run: str = "R", **more: Any) -> Exchange:
        """A call from its hold to its end: it takes a second."""
        told_of = ("agent", "user", "session", "trace_id", "parent", "caller")
        known: dict[str, Any] = {key: more.pop(key) for key in told_of if key in more}
        if "caller" in known:  # the span under which the run hangs
            known["parent_span"] = known.pop("caller")
        held = charge(f"run/{run}/nusd", want=1000, limit=10**12)
        wanted = order(name, held, run=run)
        await self.store.reserve(
            type(wanted)(wanted.id, name, facts(run, **known), wanted.charges, wanted.at, wanted.deadline_at)
        )
        start = self.clock.now()
        self.clock.advance(1.0)
        told = exchange(name, cost, run=run, **{"started_at": start, "ended_at": self.clock.now(), **more})
        await self.store.settle(f"{name}/1", {"nusd": cost or 0}, told)
        return told

    async def refuse(self, name: str, run: str = "R", **more: Any) -> Exchange:
        """A call that was never sent."""
        start = self.clock.now()
        told = exchange(name, 0, "refused", run=run, **{"started_at": start, "ended_at": start, **more})
        await self.store.settle(None, None, told)
        return told

    async def end(self, run: str, state: str, outcome: str | None, reason: str | None) -> None:
        """The run is ended, killed or resumed now."""
        await self.store.end_run(run, state, outcome, reason, self.clock.now())

    async def capture(self, call: str, run: str = "R", **said: Any) -> None:
        """What a call said comes into the journal: lists of messages, as `system`, `input`, `output` and `tools`."""
        texts = {
            f"{call}-{name}-{at}": encode(one).decode() for name, many in said.items() for at, one in enumerate(many)
        }
        lists: dict[str, Any] = {
            name: tuple(f"{call}-{name}-{at}" for at in range(len(many))) for name, many in said.items()
        }
        self.store.remember(Content(call, run, **lists, rules=3, texts=texts), self.lost)
        await asyncio.sleep(0)

    def lost(self) -> None:
        """The store could not keep it."""
        raise AssertionError("content was lost")

    def read(self, limit: int = 500, weaver: Weaver | None = None) -> Woven:
        """The next entries, woven and remembered."""
        one = weaver or self.weaver
        entries = self.store.reading().entries(self.notebook.cursor, limit=limit)
        woven = one.weave(entries, self.clock.now())
        self.notebook.write(woven.notes, entries[-1].seq if entries else None)
        one.written()
        return woven

    def spans(self) -> list[Span]:
        """All spans that came new."""
        return self.read().spans


def number(span: Span, name: str) -> float:
    """A figure of a span; 0 where it has none."""
    value = span.attributes.get(name, 0)
    assert isinstance(value, int | float)
    return value


def named(spans: list[Span], start: str) -> list[Span]:
    """Spans whose name begins so."""
    return [span for span in spans if span.name.startswith(start)]


def asks(*tools: tuple[str, str]) -> dict[str, Any]:
    """An answer that asks for tools: (id, name)."""
    return {"tool_calls": [ToolCall(one, name, digest=7) for one, name in tools], "finish_reason": "tool_calls"}


def brings(*results: str, error: bool = False, digest: int = 9) -> dict[str, Any]:
    """A request that brings the results of these tool calls."""
    return {"results": [Result(one, None, error, digest, 120, at) for at, one in enumerate(results)]}


FULL: dict[str, Any] = {
    "request_model": "gpt-4o", "stream": True, "first_at": AT + 0.25, "status": 200, "response_model": "gpt-4o-2024",
    "response_id": "resp_1", "finish_reason": "stop", "tier": "default", "reserve_s": 0.5, "clamped": 4096,
    "hold_nusd": 1000,
    "usage": Usage(
        input_tokens=1000, output_tokens=50, cache_read_tokens=600, cache_write_tokens=100, reasoning_tokens=20
    ),
    "asked": Asked(
        max_tokens=512, temperature=0.2, top_p=0.9, top_k=40, frequency_penalty=0.1, presence_penalty=0.1, seed=7,
        stop=("END",), choices=2, output_type="json", tier="auto",
    ),
    "attempts": [
        Attempt("openai", "gpt-4o", 429, "upstream_error", 0, AT, AT + 0.1),
        Attempt("openai", "gpt-4o", 200, "ok", 40, AT + 0.1, AT + 1),
    ],
    "findings": [
        {"finding_id": "f1", "kind": "loop", "severity": "warn", "action": "observe", "would": "block", "reason": "3x"}
    ],
}  # fmt: skip

OVER = Limited("run/R/nusd", "run", "nusd", limit=5, spent=5, held=0, needed=9)


def run_of(**more: Any) -> Run:
    """A run as the ledger may know it."""
    return Run(key="R", id="R", **more)
