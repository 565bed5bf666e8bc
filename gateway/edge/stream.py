"""An answer on its way in: who waits for it, how long, and what its bytes say once they are unpacked.

Invariant: every wait ends (head, gap, total); what came before a failure is handed on, then the reader is told; a
compressed body grows in bounded steps. What never enters: a socket, the framing of HTTP (edge/wire.py).
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

from gateway.core.errors import UpstreamFailed
from gateway.core.types import Provider

_LEAST_TIMER_S = 0.001  # the loop's clock ticks in milliseconds
_STEP_BYTES = 1 << 20  # 200 KB of gzip can hold 200 MB
CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})  # RFC 9110 section 8.4.1; zstd: RFC 8878


class Carrier(Protocol):
    """What an Answer needs of the connection that brings it."""

    def ask(self, stream: Answer, request: bytes, body: bytes) -> None:
        """Writes the request; from here on it counts as sent."""
        ...

    def go_on(self) -> None:
        """What waited was read: more may come."""
        ...

    def drop(self) -> None:
        """Ends the connection at once."""
        ...


class Answer:
    """The attempt, then its answer; implements ports.Stream and is its own iterator.

    One timer watches it: armed once, it looks again when the nearest limit could be reached. Chunks arm nothing.
    """

    __slots__ = ("_carrier", "_ends", "_failure", "_first", "_gap", "_loop", "_name", "_over", "_packed", "_scope",
                 "_since", "_timer", "_waiter", "asked", "bodiless", "headers", "parts", "started", "status",
                 "waiting_bytes")  # fmt: skip

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop, whole: bool, bodiless: bool) -> None:
        self.status = 0  # until the head came
        self.headers: list[tuple[str, str]] = []
        self.parts: list[bytes] = []  # came, and not read yet
        self.waiting_bytes = 0  # of these, with their framing
        self.asked = False  # a byte of the request may have left
        self.bodiless = bodiless  # asked with HEAD
        self.started = loop.time()
        self._loop = loop
        self._name = provider.name
        self._gap = provider.gap_s
        self._ends = self.started + provider.total_s
        # until the first chunk the wait for the first token goes on
        self._first = self._ends if whole else min(self._ends, self.started + provider.first_token_s)
        self._since: float | None = None  # waiting for the provider since; None: it waits for us
        self._scope: asyncio.Timeout | None = None  # while it waits for a connection
        self._carrier: Carrier | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._packed: Unpacking | None = None
        self._failure: UpstreamFailed | None = None
        self._over = False  # all of it has come

    # -------------------------------------------------------------- the caller's side

    def connecting(self) -> asyncio.Timeout:
        """The scope in which to find a connection: it ends at the head's limit, or when the attempt is ended."""
        self._scope = asyncio.timeout_at(self._first)
        return self._scope

    def check(self) -> None:
        """Raises UpstreamFailed where the attempt has been ended."""
        if self._failure is not None:
            raise self._failure

    async def head(self, carrier: Carrier, request: bytes, body: bytes) -> None:
        """Asks, and waits until status and headers are there. Raises UpstreamFailed."""
        loop = self._loop
        self._scope = None
        self._carrier = carrier
        self.asked = True
        self._timer = loop.call_later(max(min(self._gap, self._first - loop.time()), _LEAST_TIMER_S), self._watch)
        carrier.ask(self, request, body)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        except BaseException:
            self.close()
            raise
        failure = self._failure
        if failure is not None and (not self.status or failure.kind == "closed"):
            raise failure

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it is read; see ports.Stream."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._packed is not None:
                if chunk := await self._unpack(self._packed):
                    return chunk
            elif self.parts:
                return self._take()
            if self._failure is not None:
                raise self._failure
            if self._over:
                self._packed = None
                raise StopAsyncIteration
            self._since = self._loop.time()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._since = None

    def close(self, within_s: float = 0.0) -> None:
        """Ends it, also before the head came: a connection whose answer has not come whole is given up."""
        if within_s > 0:
            self._loop.call_later(within_s, self.close)
        elif not self._over or self.parts or self._packed is not None:
            self._abandon(UpstreamFailed("the call was ended", kind="closed", sent=self.asked))
            if self._scope is not None:
                # a deadline in the past: the one wait of this attempt ends, the walk that waits is not cancelled
                self._scope.reschedule(0)

    # -------------------------------------------------------------- the connection's side

    def begin(self, status: int, headers: list[tuple[str, str]], coding: str) -> None:
        """The head is there. A coding that is taken off is not claimed any longer, nor the length that went with it."""
        if coding in CODINGS and not self.bodiless:
            self._packed = Unpacking(coding)
            headers = [head for head in headers if head[0] not in ("content-encoding", "content-length")]
        self.status, self.headers = status, headers
        self.wake()

    def wake(self) -> None:
        """Something came for whoever waits."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def finish(self) -> None:
        """All of it has come: nothing waits for the provider any more."""
        self._over = True
        self._let_go()

    def fail(self, failure: UpstreamFailed) -> None:
        """It will not come whole."""
        if self._failure is None and not self._over:
            self._failure = failure
            if self._carrier is not None:
                self._carrier.drop()
            self._let_go()

    # -------------------------------------------------------------- inside

    def _abandon(self, failure: UpstreamFailed) -> None:
        """Nothing of it is wanted any more, not even what has come."""
        self.parts.clear()
        self._packed = None
        self.fail(failure)
        if self._failure is None:
            self._failure = failure

    def _let_go(self) -> None:
        self._carrier = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wake()

    def _take(self) -> bytes:
        parts = self.parts
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.waiting_bytes = 0
        self._first = 0.0
        if self._carrier is not None:
            self._carrier.go_on()
        return chunk

    async def _unpack(self, packed: Unpacking) -> bytes:
        """The next piece of a compressed body; empty where the provider must send more first, or never will."""
        try:
            while packed.pending or self.parts:
                if packed.pending:
                    await asyncio.sleep(0)  # a bomb goes off step by step, other calls in between
                    if self._packed is None:
                        return b""
                else:
                    packed.feed(self._take())
                if chunk := packed.step():
                    return chunk
            if self._over and not packed.whole:
                raise Unreadable("it ends in the middle")
        except Unreadable as error:
            failure = UpstreamFailed("the provider's compressed answer can't be read", kind="protocol")
            self._abandon(failure)
            raise failure from error
        return b""

    def _watch(self) -> None:
        now, waits = self._loop.time(), self._since
        if not self.status:
            limit = self._first
        else:
            limit = self._ends if waits is None else min(self._ends, max(waits + self._gap, self._first))
        if now < limit:
            self._timer = self._loop.call_later(max(min(self._gap, limit - now), _LEAST_TIMER_S), self._watch)
            return
        what = "the provider took longer than its total time" if now >= self._ends else "the provider sent nothing"
        if not self.status:
            what = f"{self._name} sent no answer in time"
        self.fail(UpstreamFailed(what, kind="timeout"))


class Unreadable(Exception):
    """A body that isn't in the coding that its head names."""


class Unpacking:
    """Takes a content coding off, at most a step at a time: what is fed waits until its output was taken."""

    __slots__ = ("_coding", "_decoder", "_fed", "_input", "_more")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._decoder: Any = None
        self._input = b""
        self._fed = False
        self._more = False  # the decoder itself holds output back

    @property
    def pending(self) -> bool:
        """There may be output without more input."""
        return self._more or bool(self._input)

    @property
    def whole(self) -> bool:
        """It ended where its coding says; nothing at all is whole as well (304, an empty error)."""
        return not self._fed or (self._decoder is None and not self._input)

    def feed(self, data: bytes) -> None:
        """The next bytes; only when nothing is pending."""
        self._fed = True
        self._input = data

    def step(self) -> bytes:
        """Up to a step of output. Raises Unreadable."""
        if self._decoder is None:
            self._decoder = _decoder(self._coding, self._input)
        decoder, data = self._decoder, self._input
        try:
            if self._coding == "br":
                chunk = decoder.process(data, output_buffer_limit=_STEP_BYTES)
                ended = decoder.is_finished()
                self._input, self._more = b"", len(chunk) >= _STEP_BYTES or not decoder.can_accept_more_data()
            else:
                chunk = decoder.decompress(data, _STEP_BYTES)
                ended = decoder.eof
                if self._coding == "zstd":
                    self._input, self._more = decoder.unused_data, not ended and not decoder.needs_input
                else:
                    self._input, self._more = decoder.unused_data or decoder.unconsumed_tail, len(chunk) == _STEP_BYTES
        except Exception as error:  # each library has errors of its own; all mean the same, and end the call
            raise Unreadable(str(error)) from error
        if ended:  # RFC 1952 section 2.2, RFC 8878 section 3: another member or frame may follow
            self._decoder, self._more = None, False
        return bytes(chunk)


def _decoder(coding: str, data: bytes) -> Any:
    """A fresh decoder; the libraries are loaded when a provider needs them, which is hardly ever."""
    if coding == "br":
        import brotli  # type: ignore[import-untyped]  # has no stubs

        return brotli.Decompressor()
    if coding == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.ZstdDecompressor()
    if coding == "deflate":
        # RFC 9110 section 8.4.1.2: some send the raw format without zlib's two bytes in front
        return zlib.decompressobj(zlib.MAX_WBITS if data[:1] and data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
    return zlib.decompressobj(zlib.MAX_WBITS | 16)
