"""The way back to one client: ports.Outlet over an aiohttp request, and whether its reader is gone.

Invariant: a write waits while the client is slow, never longer than 60 s without progress; after the client left every
call is a no-op; an answer that was not ended is never made to look whole. What never enters: what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.http import HttpVersion11, StreamWriter
from multidict import CIMultiDict

STALLED_S = 60.0  # security.md, limits: a client that takes nothing for so long is cut
_SLICE_BYTES = 256 << 10
_BODILESS = frozenset({204, 304})


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
        try:
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


def _heads(headers: Sequence[tuple[str, str]]) -> CIMultiDict[str]:
    heads = CIMultiDict(headers)
    heads["server"] = "meterbox"  # else aiohttp tells its version and the interpreter's
    return heads
