"""Fakes of the ports, shared by all tests: a clock that stands still, a scripted upstream, an outlet that remembers.

Invariant: nothing here touches time, chance or a socket; what a fake was told is kept in public lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from gateway.core.errors import UpstreamFailed
from gateway.core.types import Entry, Inbound, Provider


class FakeClock:
    """Time that passes only when told to; ids that count up."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at
        self._ids = 0

    def now(self) -> float:
        return self.at

    def mono(self) -> float:
        return self.at

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}_{self._ids:06d}"

    def advance(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Scripted:
    """One answer of the fake upstream.

    fails: raised instead of a head. breaks: raised after the last chunk. gate: the head waits for it (or for an abort);
    chunk_gate: every chunk after the first waits for it.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),)
    chunks: Sequence[bytes] = ()
    fails: UpstreamFailed | None = None
    breaks: UpstreamFailed | None = None
    gate: asyncio.Event | None = None
    chunk_gate: asyncio.Event | None = None


@dataclass
class Sent:
    """What the fake upstream was asked."""

    provider: Provider
    inbound: Inbound
    body: bytes
    whole: bool = False


class ScriptedStream:
    """An answer that comes as scripted; `close` ends it with kind `closed`, as the real one does."""

    def __init__(self, script: Scripted) -> None:
        self.status = script.status
        self.headers = tuple(script.headers)
        self.pulled = 0  # chunks handed out: back-pressure is seen here
        self.closed = False
        self.lingers: list[float] = []  # moments for which it was kept open after a cut
        self.yielded = 0  # a second `chunks()` goes on where the first one stopped, as the real one does
        self._script = script
        self._closing = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        while self.yielded < len(self._script.chunks):
            number, chunk = self.yielded, self._script.chunks[self.yielded]
            if number and self._script.chunk_gate is not None:
                await either(self._script.chunk_gate, self._closing)
            if self.closed:
                raise UpstreamFailed("we closed it", kind="closed")
            self.yielded = self.pulled = number + 1
            yield chunk
        if self._script.breaks is not None:
            raise self._script.breaks

    def close(self, within_s: float = 0.0) -> None:
        if within_s:
            self.lingers.append(within_s)
            return  # the script's end comes within the moment
        self.closed = True
        self._closing.set()


class ScriptedUpstream:
    """Answers in the order of its scripts; the last one repeats. Implements ports.Upstream."""

    def __init__(self, *scripts: Scripted) -> None:
        self.scripts = list(scripts) or [Scripted(chunks=[b"{}"])]
        self.sent: list[Sent] = []
        self.streams: list[ScriptedStream] = []

    async def send(
        self,
        provider: Provider,
        inbound: Inbound,
        body: bytes,
        on_open: Callable[[Callable[[], None]], None],
        whole: bool = False,
    ) -> ScriptedStream:
        script = self.scripts[min(len(self.sent), len(self.scripts) - 1)]
        self.sent.append(Sent(provider, inbound, body, whole))
        stream = ScriptedStream(script)
        self.streams.append(stream)
        on_open(stream.close)
        if script.gate is not None:
            await either(script.gate, stream._closing)
        if stream.closed:
            raise UpstreamFailed("we closed it", kind="closed")
        if script.fails is not None:
            raise script.fails
        return stream


@dataclass
class RecordingOutlet:
    """Remembers what a client would have seen. Implements ports.Outlet. `leave()` is the client hanging up.

    write_gate: every write waits for it (a slow client).
    """

    gone: bool = False
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    writes: list[bytes] = field(default_factory=list)
    ended: bool = False
    aborted: bool = False
    streamed: bool = False
    write_gate: asyncio.Event | None = None
    _callbacks: list[Callable[[], None]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    def header(self, name: str) -> str | None:
        return next((value for have, value in self.headers if have == name), None)

    async def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        assert self.status is None, "an answer begins once"
        self.status, self.headers, self.streamed = status, list(headers), True

    async def write(self, chunk: bytes) -> None:
        if self.write_gate is not None:
            await self.write_gate.wait()
        if not self.gone:
            assert self.streamed and not self.ended, "writes lie between start and end"
            self.writes.append(chunk)

    async def end(self) -> None:
        assert self.gone or not self.ended, "an answer ends once"
        self.ended = True

    def abort(self) -> None:
        self.aborted = True

    async def whole(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        assert self.status is None, "an answer begins once"
        if not self.gone:
            self.status, self.headers, self.ended = status, list(headers), True
            self.writes.append(body)

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self.gone:
            callback()
        else:
            self._callbacks.append(callback)

    def leave(self) -> None:
        if self.gone:
            return
        self.gone = True
        for callback in self._callbacks:
            callback()


class RecordingProjection:
    """Remembers what it was told. Implements ports.Projection.

    fails: raised by the next `apply`s, one each. moves: how many entries of a batch it takes (None: all).
    """

    def __init__(self, name: str = "recording", cursor: int = 0) -> None:
        self.name = name
        self.cursor = cursor
        self.batches: list[list[int]] = []  # numbers of the entries of each apply, the failed ones too
        self.told: list[int] = []  # those that were taken
        self.ticks: list[float] = []
        self.tick_s = 10.0
        self.fails: list[Exception] = []
        self.tick_fails: list[Exception] = []
        self.moves: int | None = None

    def apply(self, entries: Sequence[Entry]) -> None:
        self.batches.append([entry.seq for entry in entries])
        if self.fails:
            raise self.fails.pop(0)
        taken = [entry.seq for entry in entries][: self.moves]
        self.told += taken
        self.cursor = max([self.cursor, *taken])

    def tick(self, now: float) -> float:
        self.ticks.append(now)
        if self.tick_fails:
            raise self.tick_fails.pop(0)
        return self.tick_s


async def either(first: asyncio.Event, second: asyncio.Event) -> None:
    """Waits until one of two events is set."""
    waits = [asyncio.ensure_future(first.wait()), asyncio.ensure_future(second.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
