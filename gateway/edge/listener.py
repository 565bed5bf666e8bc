"""The one place that builds a listener: aiohttp's low-level server with our limits and our error page.

Invariant: a handler is cancelled when its client leaves (and only the handler: walks have tasks of their own); nothing
that a client sent comes back in an error page or goes into the log; a connection that sends its head slowly, or not at
all, or doesn't take its last bytes, is closed. What never enters: routes.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp.http_parser
from aiohttp import web
from aiohttp.streams import StreamReader

from gateway.core.errors import ConfigError
from gateway.core.refusal import openai_error
from gateway.core.types import Refusal

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Log = Callable[[str, dict[str, Any]], None]

MOST_CONNECTIONS = 8192
OWN_FILES = 256  # the ledger and its readers, the log, sockets that listen, connections to providers that idle
HEAD_S = 10.0  # from the first byte of a head to its last
IDLE_S = 75.0  # nginx's default: longer than clients keep a pooled connection
SHUTDOWN_S = 15.0
TAKEN_S = 60.0  # what waits for a client when its connection is closed: as long as a stalled answer (edge/outlet.py)
_MOST_LINE, _MOST_HEADERS = 8190, 128  # security.md, limits
_FILES = resource.RLIMIT_NOFILE
_FULL = Refusal(503, "overloaded", "Too many connections are open. Retry in a second.", retryable=True)


def affordable(most: int) -> int:
    """How many connections there are file descriptors for, each with another one to a provider; asks the system for
    more first. A shell's usual 1,024 would be used up before the limit held: no call could go out then."""
    wanted = 2 * most + OWN_FILES
    soft, hard = (wanted if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(_FILES))
    if soft < wanted:
        soft = min(wanted, max(soft, hard))
        resource.setrlimit(_FILES, (soft, resource.getrlimit(_FILES)[1]))
    return min(most, max(1, (soft - OWN_FILES) // 2))


def make_runner(
    handle: Handle, log: Log, connections: int | None = None, head_s: float = HEAD_S, taken_s: float = TAKEN_S
) -> web.ServerRunner:
    """A runner for one listener. Raises ConfigError where aiohttp's C parser is missing."""
    if aiohttp.http_parser.HttpRequestParser is aiohttp.http_parser.HttpRequestParserPy:
        # CVE-2025-53643: request smuggling, in the Python parser only
        raise ConfigError("aiohttp's C parser is missing: unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp.")
    # ServerRunner takes handler_cancellation as well, and silently ignores it: only the server's own counts.
    most = affordable(MOST_CONNECTIONS) if connections is None else connections
    return web.ServerRunner(_Listener(handle, log, most, head_s, taken_s), shutdown_timeout=SHUTDOWN_S)


def wind_up(runner: web.ServerRunner) -> None:
    """Nobody new comes in on what is open: a connection that rests is closed, one that serves is after its answer."""
    assert runner.server is not None
    for connection in runner.server.connections:
        if isinstance(connection, _Connection):
            connection.wind_up()


class _Listener(web.Server):
    """Makes connections, and counts them."""

    def __init__(self, handle: Handle, log: Log, connections: int, head_s: float, taken_s: float) -> None:
        super().__init__(
            handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=IDLE_S,
            max_line_size=_MOST_LINE,
            max_field_size=_MOST_LINE,
            max_headers=_MOST_HEADERS,
            auto_decompress=False,
            lingering_time=5.0,
        )
        self.say = log
        self.head_s = head_s
        self.taken_s = taken_s
        self.most = connections
        self.open = 0

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection. What differs from aiohttp's: a limit on their number, a watch on slow heads, the error page."""

    __slots__ = ("_body", "_end_timer", "_ever_paused", "_head_timer", "_last", "_listener")

    def __init__(self, listener: _Listener, **named: Any) -> None:
        super().__init__(listener, **named)
        self._listener = listener
        self._head_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None  # of the last request, until it has come whole
        self._last = False  # no request after this one
        self._ever_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Above the limit it is told so and closed, before it costs anything."""
        self._listener.open += 1
        if self._listener.open <= self._listener.most:
            return super().connection_made(transport)
        self._force_close = True
        full = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        body = openai_error(_FULL)
        head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        own = b"x-should-retry: true\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        full.write(head + own + body)
        full.close()

    async def start(self) -> None:
        """Serves the connection; at its end what the client has not taken yet is not kept for ever."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and transport.get_write_buffer_size() > 0:
                self._end_timer = self._loop.call_later(self._listener.taken_s, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.open -= 1
        self._watch(False)
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._body = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._watch(False)
            self._body = self._messages[-1][1] if self._messages else None
        elif data and self._body is None:
            self._watch(True)  # neither a head's end nor a body's piece: a part of a head, whoever is served meanwhile
        if self._body is not None and self._body.is_eof():
            self._body = None
            if self._last:
                self.close()

    def wind_up(self) -> None:
        """Closes it as soon as nothing of a request is under way on it."""
        self._last = True
        if self._waiter is not None and not self._waiter.done():
            self.force_close()
        elif self._body is None:
            self.close()  # after the answer; aiohttp takes nothing in from now on, so not while a body comes

    def pause_reading(self) -> None:
        """A body is too large to be taken in at once."""
        self._ever_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for this at each read and at each body's end, and has its parser look for what is left. Where no
        body ever had to wait, and no further request has come, nothing can be left."""
        if self._ever_paused or self._messages:
            super().resume_reading(resume_parser)

    def _watch(self, partial: bool) -> None:
        if not partial:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._listener.head_s, self._late)

    def _late(self) -> None:
        """The head took too long. Not while the request before it is served: its client may be reading."""
        self._head_timer = None
        if self._waiter is None or self._waiter.done():
            return self._watch(True)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  aiohttp's signature
    ) -> web.StreamResponse:
        """Our page for what isn't HTTP: aiohttp's quotes the line that it can't read, credentials and all."""
        kind = type(exc).__name__ if exc is not None else "unknown"
        self._listener.say("malformed" if status < 500 else "unexpected", {"status": status, "kind": kind})
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        return error_page(status, kind)

    def log_exception(self, *_args: Any, **named: Any) -> None:
        """Type only: see handle_error."""
        error = named.get("exc_info")
        self._listener.say("connection_failed", {"kind": type(error).__name__})


def error_page(status: int, kind: str) -> web.Response:
    """An answer for which no dialect is known."""
    if status >= 500:
        refusal = Refusal(500, "internal_error", "Meterbox failed here; its log says where. Report it to the operator.")
    else:
        refusal = Refusal(400, "invalid_request", f"This isn't a well-formed HTTP request ({kind}). Send HTTP/1.1.")
    page = web.Response(
        status=refusal.status,
        body=openai_error(refusal),
        headers={"content-type": "application/json", "x-should-retry": "false", "server": "meterbox"},
    )
    page.force_close()
    return page
