"""One whole walk in memory: the real pipeline, dialects, prices and ledger between a scripted provider and a client.

Invariant: nothing of ours is patched; faults are raised by ports that stand in front of the real ones. `World.held`
and `World.settled_once` say in one word what every path must leave behind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from gateway.app import dialects
from gateway.core.identify import Index, labels_of
from gateway.core.kin import Kin
from gateway.core.ledger.book import HELD
from gateway.core.live import Live
from gateway.core.parts import Parts
from gateway.core.presets import PRESETS
from gateway.core.price import Override
from gateway.core.quote import Policy
from gateway.core.types import Exchange, Inbound, Key, Provider
from gateway.edge.pricelist import PriceList
from gateway.pipeline import Pipeline
from gateway.rules.budget import Budget, Budgets
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock, RecordingOutlet, Scripted, ScriptedUpstream

MODEL = "gpt-4o-mini"  # $0.15 and $0.60 a million: 150 and 600 nano-dollars a token
CLAUDE = "claude-sonnet-4-5"
DOLLAR = 1_000_000_000
TEN = (Budget("ten", 10 * DOLLAR, 10 * DOLLAR),)
JSON = (("content-type", "application/json"),)
SSE = (("content-type", "text/event-stream"),)
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST = 10 * 150 + 20 * 600  # of USAGE at MODEL's price


@cache
def prices() -> PriceList:
    """Read once a session: importing the list takes 0.3 s."""
    return PriceList([Override("priced-*", 1_000_000_000, 4_000_000_000, provider="scripted")])


def provider(preset: str = "scripted", **more: Any) -> Provider:
    """A section of this preset."""
    import msgspec

    return msgspec.structs.replace(PRESETS[preset], origin="http://provider.test", **more)


class Words:
    """A tokenizer that counts four bytes as one token. Implements ports.Tokenizer."""

    def __init__(self, ready: bool = True) -> None:
        self._ready = ready
        self.warmed: list[str] = []
        self.asked: list[str] = []
        self.fails: Exception | None = None

    def ready(self, encoding: str) -> bool:
        return self._ready

    def warm(self, encoding: str) -> None:
        self.warmed.append(encoding)

    async def count(self, encoding: str, text: str) -> int | None:
        self.asked.append(text)
        if self.fails is not None:
            raise self.fails
        return len(text) // 4


def _nothing() -> None:
    """Nothing happens in that instant."""


class Faulty:
    """A store in front of the real one: a method named in `fails` raises, one named in `says` gives that and does
    nothing; what is named in `before` and `after` is called in the instant before, and after, the real one does it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.fails: dict[str, Exception] = {}
        self.says: dict[str, Any] = {}
        self.before: dict[str, Callable[[], Any]] = {}
        self.after: dict[str, Callable[[], Any]] = {}
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.store, name)
        if name in ("forget", "failed"):
            return real

        async def ask(*args: Any, **named: Any) -> Any:
            self.asked.append(name)
            if name in self.says:
                return self.says[name]
            if name in self.fails:
                raise self.fails[name]
            self.before.get(name, _nothing)()
            got = await real(*args, **named)
            self.after.get(name, _nothing)()
            return got

        return ask


class World:
    """A gateway without edges. Scripts are what the provider answers, in order; the last one repeats."""

    def __init__(self, *scripts: Scripted, budgets: Sequence[Budget] = TEN, tokenizer: Any = None, **more: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now)
        self.faulty = Faulty(self.store)
        self.upstream = ScriptedUpstream(*scripts)
        self.tokenizer = tokenizer or Words()
        self.live, self.kin = Live(), Kin()
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.dialects = dialects()
        rule = Budgets(budgets, refuse_unknown=more.pop("refuse_unknown", True))
        known: dict[str, Any] = {"wait_s": 30.0, "index": Index(), **more}
        self.parts = Parts(
            store=self.faulty,
            upstream=known.pop("upstream", self.upstream),
            prices=known.pop("prices", prices()),
            tokenizer=self.tokenizer,
            rules=(rule,),
            clock=self.clock,
            kin=self.kin,
            live=self.live,
            policy=Policy(),
            log=lambda event, fields: self.log.append((event, fields)),
            **known,
        )
        self.pipeline = Pipeline(self.parts)

    async def call(self, body: Any = None, path: str = "/v1/chat/completions", outlet: Any = None, **more: Any) -> Any:
        """Walks one call to its end. Everything else as in `inbound`."""
        outlet = RecordingOutlet() if outlet is None else outlet
        section = more.pop("provider", None) or provider()
        came = inbound(chat() if body is None else body, path, **more)
        dialect = next((one for one in self.dialects if one.matches(came.method, came.match)), None)
        await self.pipeline.walk(came, section, dialect, outlet)
        return outlet

    def start(self, body: Any = None, outlet: Any = None, **more: Any) -> tuple[asyncio.Task[Any], RecordingOutlet]:
        """A call that goes on while the test does something else; and its client."""
        outlet = RecordingOutlet() if outlet is None else outlet
        return asyncio.ensure_future(self.call(body, outlet=outlet, **more)), outlet

    @property
    def calls(self) -> list[Exchange]:
        """Calls as the journal has them."""
        import msgspec

        return [msgspec.msgpack.decode(e.data, type=Exchange) for e in self.store.journal if e.kind == "call"]

    @property
    def last(self) -> Exchange:
        """The latest call."""
        return self.calls[-1]

    def spent(self, run: str = "r") -> int:
        return self.store.book.account(f"run/{run}/nusd").spent

    def held(self) -> int:
        """What is held on all accounts together."""
        return sum(account.held for account in self.store.book.accounts.values())

    def ends(self) -> list[str]:
        """How the holds ended, one word for each change of the first account."""
        return [row.kind for row in self.store.rows if row.hold and row.account.startswith("run/r/")]

    def sound(self) -> bool:
        """Nothing is held, nobody waits, each hold ended once, and the balances are the sums of the rows."""
        states = [hold.state for hold in self.store.book.holds.values()]
        assert HELD not in states, states
        assert [] == self.store.audit()
        assert not self.store.book.line.parked
        assert 0 == len(self.live), "a call that ended is not in flight"
        return self.held() == 0


def inbound(
    body: Any, path: str = "/v1/chat/completions", run: str | None = "r", method: str = "POST", **more: Any
) -> Inbound:
    """A request as the edge hands it in. Underscores in header names are hyphens."""
    key: Key | None = more.pop("key", None)
    tenant = more.pop("tenant", key.name if key is not None else "digest")
    query, at = more.pop("query", ""), more.pop("at", 1_800_000_000.0)
    named = {"x-meterbox-run-id": run} if run is not None else {}
    named |= {name.replace("_", "-"): value for name, value in more.items()}
    headers = tuple(named.items())
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Inbound(method, None, path, path, query, headers, raw, labels_of(headers, None), tenant, key, at)


def chat(stream: bool = False, words: Any = 3, **more: Any) -> dict[str, Any]:
    """A small chat request."""
    limit = {} if "max_tokens" in more else {"max_tokens": 100}
    said = [{"role": "user", "content": "hello " * words}]
    return {"model": MODEL, "messages": said, "stream": stream, **limit, **more}


def answered(usage: Any = USAGE, text: str = "hi", **more: Any) -> bytes:
    """A whole chat answer."""
    message = {"role": "assistant", "content": text}
    told = {} if usage is None else {"usage": usage}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"id": "c1", "model": MODEL, "choices": choices, **told, **more}).encode()


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def piece(text: str, finish: str | None = None) -> bytes:
    """A chunk of a streamed chat answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return event({"id": "c1", "model": MODEL, "choices": [choice]})


USAGE_CHUNK = event({"id": "c1", "model": MODEL, "choices": [], "usage": USAGE})
DONE = event(b"[DONE]")
STREAMED = (piece("hel"), piece("lo", "stop"), USAGE_CHUNK, DONE)


def whole(body: bytes | None = None, status: int = 200, **more: Any) -> Scripted:
    """An answer in one piece."""
    return Scripted(status=status, headers=JSON, chunks=[answered()] if body is None else [body] * bool(body), **more)


def streamed(*chunks: bytes, **more: Any) -> Scripted:
    """A streamed answer."""
    return Scripted(headers=SSE, chunks=list(chunks or STREAMED), **more)


async def turns(count: int = 20) -> None:
    """Lets everybody go on who can."""
    for _ in range(count):
        await asyncio.sleep(0)
