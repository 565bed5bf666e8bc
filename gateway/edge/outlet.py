"""The way back to one client: ports.Outlet over an aiohttp request, and whether its reader is gone.

Invariant: a write waits while the client is slow, never longer than 60 s without progress; after the client left every
call is a no-op; an answer that was not ended is never made to look whole. What never enters: what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from types import MappingProxyType

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11, StreamWriter
from multidict import CIMultiDict

STALLED_S = 60.0  # security.md, limits: a client that takes nothing for so long is cut
_SLICE_BYTES = 256 << 10
_BODILESS = frozenset({204, 304})
# Headers that aiohttp sets, or reads, itself: an answer that brings one of its own is left to it.
_FRAMING = frozenset({"connection", "content-length", "server", "transfer-encoding"})
_REASONS = MappingProxyType({status.value: status.phrase for status in HTTPStatus})


class _Sent(web.StreamResponse):
    """What aiohttp is told of an answer that has left: nothing is to be written, and whether the connection goes on."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._keeps = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._keeps

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002  aiohttp's signature
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002  aiohttp's signature
        return None


_KEPT, _CLOSED = _Sent(True), _Sent(False)


class HttpOutlet:
    """One request's answer. `leave` is called by the server when the connection is lost."""

    __slots__ = ("_bodiless", "_callbacks", "_request", "_stalled_s", "_writer", "ended", "gone", "response")

    def __init__(self, request: web.BaseRequest, stalled_s: float = STALLED_S) -> None:
        self.gone = False
        self.ended = False
        self.response: web.StreamResponse | None = None
        self._request = request
        self._writer: StreamWriter = request.writer  # type: ignore[assignment]  # the server makes no other kind
        self._callbacks: list[Callable[[], None]] = []
        self._stalled_s = stalled_s
        self._bodiless = request.method == "HEAD"

    async def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Sends the head at once: SDKs return from `create(stream=True)` when they have it."""
        if self.gone:
            return
        response = web.StreamResponse(status=status, headers=_heads(headers))
        if self._request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        await self._begin(response)

    async def write(self, chunk: bytes | memoryview) -> None:
        """Hands over a chunk and waits until the client has room for the next."""
        if self.gone or self._bodiless:
            return
        transport = self._request.transport
        try:
            if chunk and self._writer.chunked and transport is not None and not transport.is_closing():
                # as aiohttp's writer does it, for a quarter of its price
                transport.write(b"".join((b"%x\r\n" % len(chunk), chunk, b"\r\n")))
            else:
                await self._writer.write(chunk, drain=False)
            if self._request.protocol.writing_paused:
                await self._drain()
        except ConnectionError:
            self.leave()

    async def end(self) -> None:
        """Ends a streamed answer."""
        if self.gone or self.response is None:
            return
        self.ended = True
        try:
            await self.response.write_eof()
        except ConnectionError:
            self.leave()

    async def whole(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """A complete answer. A large one goes out in slices, so that a slow client is told from one that left."""
        if self.gone:
            return
        if self.response is not None:
            return self.abort()  # a second answer after a first that began: only a defect of ours asks for that
        if len(body) <= _SLICE_BYTES or self._bodiless:
            if self._sent_at_once(status, headers, body):
                return await self._caught_up()
            await self._begin(web.Response(status=status, headers=_heads(headers), body=body))
            return await self.end()
        response = web.StreamResponse(status=status, headers=_heads(headers))
        response.content_length = len(body)
        await self._begin(response)
        view = memoryview(body)
        for start in range(0, len(body), _SLICE_BYTES):
            await self.write(view[start : start + _SLICE_BYTES])
        await self.end()

    def abort(self) -> None:
        """Breaks the connection off."""
        if self._request.transport is not None:
            self._request.transport.abort()
        self.leave()

    def on_gone(self, callback: Callable[[], None]) -> None:
        """See ports.Outlet."""
        if self.gone:
            callback()
        else:
            self._callbacks.append(callback)

    def leave(self) -> None:
        """The client is gone: whoever asked is told, once."""
        if self.gone:
            return
        self.gone = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _sent_at_once(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Hands head and body to the transport in one write, byte for byte what aiohttp would send, for a fifth of its
        price. False: nothing was written; aiohttp knows what to do with HEAD, HTTP/1.0, a closed line, odd headers."""
        request = self._request
        transport = request.transport
        if transport is None or transport.is_closing() or self._bodiless or request.version != HttpVersion11:
            return False
        keep_alive = request.keep_alive
        head = None if status < 200 or status in _BODILESS else _head(status, headers, len(body), keep_alive)
        if head is None:
            return False
        self.response = _KEPT if keep_alive else _CLOSED
        self.ended = True
        answer = head + body
        self._writer.output_size += len(answer)  # by this aiohttp knows that an answer has begun
        transport.write(answer)
        return True

    async def _caught_up(self) -> None:
        """Waits until the client has room for what was written."""
        if self._request.protocol.writing_paused:
            try:
                await self._drain()
            except ConnectionError:
                self.leave()

    async def _begin(self, response: web.StreamResponse) -> None:
        self.response = response
        self._bodiless = self._bodiless or response.status in _BODILESS
        try:
            await response.prepare(self._request)
        except ConnectionError:
            self.leave()

    async def _drain(self) -> None:
        timer = asyncio.get_running_loop().call_later(self._stalled_s, self.abort)
        try:
            await self._writer.drain()
        finally:
            timer.cancel()


def _head(status: int, headers: Sequence[tuple[str, str]], length: int, keep_alive: bool) -> bytes | None:
    """The head of a whole answer, as aiohttp spells it; None where something in it is for aiohttp to judge."""
    names = {name.lower() for name, _ in headers}
    if not names.isdisjoint(_FRAMING):
        return None
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += ("server: meterbox", f"Content-Length: {length}")
    if length and "content-type" not in names:
        lines.append("Content-Type: application/octet-stream")
    if "date" not in names:
        lines.append(f"Date: {rfc822_formatted_time()}")
    if not keep_alive:
        lines.append("Connection: close")
    if not "".join(lines).isprintable():  # a line break would begin another header, or another answer
        return None
    lines += ("", "")
    return "\r\n".join(lines).encode()


def _heads(headers: Sequence[tuple[str, str]]) -> CIMultiDict[str]:
    heads = CIMultiDict(headers)
    heads["server"] = "meterbox"  # else aiohttp tells its version and the interpreter's
    return heads
