"""The sockets: what the walk needs from dialects, rules, detectors, stores, projections and the edge.

Invariant: a protocol here has a conformance suite in tests/contracts/ that every implementation passes unchanged.
Ids are made by the caller, so that every request to a store may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from gateway.core.types import (
    Balance,
    Call,
    Charge,
    Content,
    Denied,
    Edits,
    Entry,
    Exchange,
    Finding,
    Inbound,
    Order,
    Pending,
    Provider,
    Refusal,
    Reply,
    Reservation,
    Run,
    RunFacts,
    Settled,
)

if TYPE_CHECKING:
    from gateway.core.price import RateCard
    from gateway.core.quote import Ask


class Clock(Protocol):
    """The only source of time, chance and ids."""

    def now(self) -> float:
        """Epoch seconds (wall clock)."""
        ...

    def mono(self) -> float:
        """Seconds that never step back; for durations."""
        ...

    def new_id(self, prefix: str) -> str:
        """A fresh id, unique without coordination, sortable by time."""
        ...


class Reader(Protocol):
    """Reads a streamed answer while it passes; any chunking gives the same bytes and the same Reply."""

    @property
    def ended(self) -> bool:
        """The terminal event was seen; its bytes (and all after it) wait in rest()."""
        ...

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of visible output so far: text, thoughts, tool arguments."""
        ...

    @property
    def input_told(self) -> int | None:
        """Exact total input tokens, as soon as the stream states them."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as they came; gives back those that may go to the client now, always whole events.

        Held back are an unfinished event (up to 64 KiB; beyond that it flows), a usage chunk that only we asked for
        (dropped), and everything from the terminal event on (see `rest`).
        """
        ...

    def take(self) -> str:
        """Visible output that came since the last `take`, for the tokenizer."""
        ...

    def rest(self) -> bytes:
        """What was held back, in its own bytes; empty afterwards. After `ended` or at the end of the body."""
        ...

    def cut(self, refusal: Refusal) -> bytes:
        """The dialect's own in-band error event: what is sent instead of the rest. Never a polite end."""
        ...

    def reply(self) -> Reply:
        """What the answer said so far; pure, may be asked at any time."""
        ...


class Dialect(Protocol):
    """One wire format."""

    @property
    def name(self) -> str: ...

    def matches(self, method: str, path: str) -> bool:
        """Is this decoded path one of this format's, billable or not? Only its end counts."""
        ...

    def decode(self, inbound: Inbound, provider: Provider) -> Call:
        """Understands a request as far as we act on it. Raises Undecodable (400, or another status it names)."""
        ...

    def rewrite(self, call: Call, body: bytes, edits: Edits) -> bytes:
        """The body with its output limit set (all names that are given; thinking budget lowered to fit), the usage
        chunk asked for, hosted tools capped, `tool_choice` none, another model. Key order and all other values stay.
        Same object if nothing changes. Raises Undecodable (402) where the format takes no limit so low.
        """
        ...

    def reader(self, call: Call, hide_usage: bool) -> Reader:
        """A reader for a streamed (SSE) answer."""
        ...

    def whole(self, call: Call, status: int, body: bytes) -> Reply:
        """Reads an answer that is not streamed. Never raises: garbage gives a Reply with ended False."""
        ...

    def refuse(self, refusal: Refusal) -> bytes:
        """The error body in this format's own shape."""
        ...

    def own_error(self, body: bytes) -> bool:
        """Is this the provider's own JSON error, as opposed to some proxy's page?"""
        ...


class Rule(Protocol):
    """May this call go? Pure; one rule a file."""

    def check(self, ask: Ask) -> Refusal | Pending | list[Charge]: ...

    def note(self, exchange: Exchange) -> None:
        """Learns from what came of it (breakers, local rates)."""
        ...


class Detector(Protocol):
    """Was that odd? Pure; fails open."""

    def look(self, past: Sequence[Exchange], latest: Exchange) -> Iterable[Finding]: ...


class Store(Protocol):
    """Remembers atomically. Every method may raise StoreFailed; then nothing of it happened."""

    async def run(self, key: str) -> Run | None: ...

    async def reserve(self, order: Order) -> Reservation | Denied:
        """All charges in one step or none. With wait_s: waits in line while only holds of others are in the way."""
        ...

    def forget(self, order_id: str) -> None:
        """The caller left: a waiting order is taken out of the line and ends as Denied(reason="gone")."""
        ...

    async def adjust(self, order_id: str, unit: str, hold: int) -> bool:
        """Sets the hold of one unit: down always, up only if it fits on every account. False: did not fit, or ended."""
        ...

    async def settle(
        self, order_id: str | None, actual: dict[str, int] | None, exchange: Exchange, findings: Sequence[Finding] = ()
    ) -> Settled:
        """Ends a reservation and writes its Exchange in one transaction.

        exchange.cost_source tells how it ended: `refused` voids, `presumed` charges the hold, everything else settles
        at `actual` (unit -> amount). order_id None: nothing was held (refused by us, free calls). Repeats are no-ops.
        """
        ...

    async def true_up(self, response_id: str, tenant: str, exchange: Exchange) -> Settled | None:
        """A late fact: the stored response of a presumed call told its usage. None where no such call waits."""
        ...

    async def correct(self, order_id: str, delta_nusd: int, reason: str, actor: str, correction_id: str) -> Settled: ...

    async def expire(self, now: float) -> int:
        """Presumes what outlived its lease or deadline; ends idle runs. Returns how many it touched."""
        ...

    async def close_account(self, gate: str, reason: str) -> None:
        """Kills: every later reserve that names this gate is Denied(reason="closed")."""
        ...

    async def open_account(self, gate: str) -> None: ...

    async def set_limit(self, account: str, limit: int) -> Balance: ...

    async def make_run(self, facts: RunFacts, at: float) -> Run: ...

    async def end_run(self, key: str, state: str, outcome: str | None, reason: str | None, at: float) -> Run | None:
        """state ended | killed | active (resume) | paused."""
        ...

    async def note(self, kind: str, run: str, data: dict[str, Any], at: float) -> None:
        """A journal entry that moves no money (transition, feedback)."""
        ...

    def remember(self, content: Content, lost: Callable[[], None]) -> None:
        """Hands in what was captured of a call; from any thread, and nobody waits. `lost` is called, on any thread,
        where it could not be written."""
        ...

    def failed(self) -> str | None:
        """Why admission is closed; None while the store works."""
        ...


class Stream(Protocol):
    """An upstream answer. `close` may be called from anywhere, at any time, more than once."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """Names in lower case; a content-encoding is already taken off and decoded."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Body as read, decompressed. Raises UpstreamFailed on reset, stall (gap_s) or total_s."""
        ...

    def close(self, within_s: float = 0.0) -> None:
        """Ends it: at once, or after a moment in which what has come already may still be read."""
        ...


class Upstream(Protocol):
    """Sends one attempt. Raises UpstreamFailed(sent=False) only if no byte of the request can have left."""

    async def send(
        self,
        provider: Provider,
        inbound: Inbound,
        body: bytes,
        on_open: Callable[[Callable[[], None]], None],
        whole: bool = False,
    ) -> Stream:
        """`whole`: no stream was asked for, so the head comes only after the last token.

        `on_open` is called at once with a function that aborts this attempt (also before the head came).
        """
        ...


class Outlet(Protocol):
    """The way back to the client, and whether anybody is there."""

    gone: bool

    async def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Begins a streamed answer."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Waits while the client is slow (back-pressure); no-op once it is gone."""
        ...

    async def end(self) -> None: ...

    def abort(self) -> None:
        """Breaks the connection off: an answer that began as a whole one and can't be completed must not look whole."""
        ...

    async def whole(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """A complete answer in one go."""
        ...

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Called once when the client leaves; at once if it has left already."""
        ...


class Tokenizer(Protocol):
    """Counts tokens off the proxy's process."""

    def ready(self, encoding: str) -> bool: ...

    def warm(self, encoding: str) -> None:
        """Begins to load, in the helper process; returns at once."""
        ...

    async def count(self, encoding: str, text: str) -> int | None:
        """Tokens of the text; None while it isn't loaded, or the helper is gone or late."""
        ...


class Prices(Protocol):
    """Integer rate cards by provider and model."""

    def card(self, provider: Provider, model: str, at: float) -> RateCard | None:
        """The card in force at that instant; None: unknown, never zero."""
        ...


class Notebook(Protocol):
    """What one projection remembers, with its cursor, in a file of its own. One thread; a file that can't be written
    raises StoreFailed, and nothing of that write happened."""

    @property
    def cursor(self) -> int:
        """Number of the last journal entry that is worked in; 0 at first."""
        ...

    def get(self, key: str) -> bytes | None: ...

    def all(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """By key; not to be written while it is read."""
        ...

    def write(self, changes: Mapping[str, bytes | None], cursor: int | None = None) -> None:
        """All of it and the cursor in one transaction; None forgets a key."""
        ...


class Projection(Protocol):
    """Reads the journal and tells others: on a thread of its own, in a process of its own, from a cursor of its own.

    It may be killed between any two lines: what it tells twice carries the same id.
    """

    @property
    def name(self) -> str: ...

    @property
    def cursor(self) -> int:
        """Number of the last entry that it will not ask for again."""
        ...

    def apply(self, entries: Sequence[Entry]) -> None:
        """A batch in order; moves the cursor behind it. Raises UpstreamFailed where nobody takes it now: the same batch
        comes again after a pause."""
        ...

    def tick(self, now: float) -> float:
        """What time asks for (ends, repeats, a fresh rendering). Gives back after how many seconds to come again."""
        ...


class Standing(Balance, frozen=True):
    """An account as a reader finds it.

    cap: what a caller or an operator made of its limit, in force as far as the configuration allows; ends_at: the end
    of its window, None where it has none.
    """

    cap: int | None = None
    ends_at: float | None = None


class OpenCall(Struct, frozen=True):
    """A call that is under way: what it holds, since when, and until when at most."""

    call_id: str
    run: str
    model: str
    since: float
    deadline_at: float
    held: dict[str, int]  # unit -> amount


class RunFilter(Struct, frozen=True):
    """Which runs, in which order. None: any."""

    state: str | None = None
    agent: str | None = None
    user: str | None = None
    since: float | None = None  # started at or after
    parent: str | None = None  # run key
    sort: str = "-last_at"  # started_at | last_at | spent, with - in front: falling


class Reading(Protocol):
    """The store for readers (`/api`, console): what is committed, straight from the ledger. Synchronous, one thread.

    A cursor is opaque: a page gives it, None after the last one. Raises StoreFailed; ValueError for a wrong cursor.
    """

    def runs(
        self, wanted: RunFilter, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[tuple[Run, Balance]], str | None]:
        """Runs with their dollar account (spent and held include descendants)."""
        ...

    def get_run(self, key: str) -> tuple[Run, Balance] | None: ...

    def children(self, key: str) -> list[str]:
        """Keys of the runs whose parent this is."""
        ...

    def active(self, most: int) -> dict[str | None, int]:
        """Active runs by agent, of so many at most."""
        ...

    def calls(self, run: str, limit: int = 100, cursor: str | None = None) -> tuple[list[Exchange], str | None]:
        """Calls of a run in the order of their ends, with what was learnt later laid over."""
        ...

    def entries(self, after_seq: int, run: str | None = None, limit: int = 100) -> list[Entry]:
        """The journal in commit order."""
        ...

    def newest(self, most: int) -> list[Entry]:
        """The newest calls of the journal, oldest first."""
        ...

    def call_before(self, run: str, call_id: str, seq: int) -> Exchange | None:
        """A call as it was known before this entry of the journal; None where it is not in the journal."""
        ...

    def content(self, call_id: str, run: str) -> dict[str, Any] | None:
        """What was captured of a call: {"system": [part], "input": [message], "output": [message], "tools":
        [definition], "truncated": bool, "rules": version of the redaction}; None where nothing was, or not yet."""
        ...

    def ends(self) -> tuple[int, int]:
        """Numbers of the oldest and the newest entry of the journal; (0, 0) where it is empty."""
        ...

    def account(self, name: str) -> Balance | None: ...

    def accounts(
        self, kind: str, limit: int = 100, cursor: str | None = None, now: float = 0.0
    ) -> tuple[list[Standing], str | None]:
        """Accounts of one kind (run, agent, user, key, global), by name; of windows that ended before `now` only those
        on which something is held still."""
        ...

    def standings(self, names: Sequence[str]) -> dict[str, Standing]:
        """Those of these accounts that count anything."""
        ...

    def open_calls(self, runs: Sequence[str], limit: int = 100) -> list[OpenCall]:
        """Calls of these runs that hold money at this moment, the oldest first."""
        ...

    def findings(self, run: str, limit: int = 100) -> list[Finding]: ...
