"""Sends one attempt to a provider and hands its answer on as it comes: aiohttp's client behind ports.Upstream.

Invariant: a request of which a byte may have left is never sent twice; every wait ends (connect, head, gap, total);
`sent` is False only if nothing left; a section's credential goes to its own origin and nowhere else. What never
enters: JSON, prices, a URL that a caller chose. Replacing the client needs only tests/contracts/test_upstream.py.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import (
    ClientConnectionResetError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_exceptions import (
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientOSError,
    ClientPayloadError,
    ClientSSLError,
    ConnectionTimeoutError,
    ServerDisconnectedError,
)
from aiohttp.payload import Payload
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from gateway.core.errors import UpstreamFailed
from gateway.core.headers import to_provider
from gateway.core.secret import Secret
from gateway.core.types import Inbound, Provider
from gateway.edge.resolver import PinningResolver, may_connect

# Shorter than the idle limit of most providers' edges, so that a pooled connection is rarely closed under a request.
_IDLE_S = 15.0
_FIRST_BYTES = 64 << 10  # goes out in one write with the head
_SLICE_BYTES = 256 << 10
_MOST_LINE, _MOST_FIELD, _MOST_HEADERS = 8190, 32 << 10, 256  # some edges send very long policy headers
_DECODED = frozenset({"gzip", "deflate", "br", "zstd"})  # what aiohttp takes off by itself


class _Way(Struct, frozen=True):
    """A section, made ready once."""

    provider: Provider
    timeout: Any
    credential: tuple[str, str] | None


class HttpUpstream:
    """One pool of connections for all sections. Made inside a running loop; close it at the end."""

    def __init__(
        self,
        secrets: Mapping[str, Secret],
        tls: ssl.SSLContext | bool = True,
        resolver: PinningResolver | None = None,
    ) -> None:
        self._secrets = secrets
        self._resolver = resolver if resolver is not None else PinningResolver()
        self._ways: dict[str, _Way] = {}
        self._loop = asyncio.get_running_loop()
        # The server's own limit on calls in flight bounds the connections, hence no second limit here.
        connector = TCPConnector(
            limit=0, keepalive_timeout=_IDLE_S, resolver=self._resolver, ssl=tls, socket_factory=_socket
        )
        self._session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            max_line_size=_MOST_LINE,
            max_field_size=_MOST_FIELD,
            max_headers=_MOST_HEADERS,
        )

    async def send(
        self,
        provider: Provider,
        inbound: Inbound,
        body: bytes,
        on_open: Callable[[Callable[[], None]], None],
        whole: bool = False,
    ) -> HttpStream:
        """Sends the request and waits for the answer's head: first_token_s, or total_s where the answer comes `whole`
        (a provider that doesn't stream sends its head only after the last token). Raises UpstreamFailed.
        """
        way = self._way(provider)
        attempt = _Attempt(self._loop.time())
        on_open(attempt.abort)
        head_s = provider.total_s if whole else min(provider.first_token_s, provider.total_s)
        last = False
        while True:
            payload = _Body(body) if body else None
            try:
                response = await self._head(way, inbound, payload, attempt, head_s)
            except Exception as error:
                failure = _translate(error, provider, attempt, payload)
                if last or failure.sent or failure.kind != "reset":
                    raise failure from error
                last = True  # a pooled connection died before the first byte was written: once more, on another
            else:
                return attempt.opened(response, provider, head_s)

    def renew(self, secrets: Mapping[str, Secret]) -> None:
        """After a reload: attempts that begin from now on carry these credentials."""
        self._secrets = secrets
        self._ways.clear()

    async def close(self) -> None:
        """Ends the pool and what still runs over it."""
        await self._session.close()

    async def _head(
        self, way: _Way, inbound: Inbound, payload: _Body | None, attempt: _Attempt, head_s: float
    ) -> ClientResponse:
        headers = CIMultiDict(to_provider(inbound.headers, way.credential is not None))
        # wire-formats.md section 10: compressed streams come late and in lumps
        headers["accept-encoding"] = "identity"
        if way.credential is not None:
            headers[way.credential[0]] = way.credential[1]
        query = f"?{inbound.query}" if inbound.query else ""
        url = URL(f"{way.provider.origin}{inbound.path}{query}", encoded=True)
        try:
            async with asyncio.timeout_at(attempt.started + head_s) as attempt.scope:
                attempt.check(sent=False)
                response = await self._session.request(
                    inbound.method, url, headers=headers, data=payload, timeout=way.timeout, allow_redirects=False
                )
        finally:
            attempt.scope = None
        try:
            attempt.check(sent=True)
            if response.status < 200:
                raise UpstreamFailed(f"{way.provider.name} switched protocols unasked", kind="protocol")
        except UpstreamFailed:
            response.close()
            raise
        return response

    def _way(self, provider: Provider) -> _Way:
        way = self._ways.get(provider.name)
        if way is not None and way.provider is provider:
            return way
        host = URL(provider.origin).host or ""
        if not may_connect(host, provider.local):
            raise UpstreamFailed(f"{provider.name}: {host} is no address for a provider", kind="dns", sent=False)
        if provider.local:
            self._resolver.local.add(host)
        else:
            self._resolver.local.discard(host)
        secret = self._secrets.get(provider.name)
        timeout = ClientTimeout(total=None, connect=None, sock_connect=provider.connect_s, sock_read=None)
        way = _Way(provider, timeout, None if secret is None else _credential(provider.quirks.auth, secret.reveal()))
        self._ways[provider.name] = way
        return way


def _credential(where: str, text: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {text}") if where == "bearer" else (where, text)


class _Attempt:
    """What can be ended from outside: before the head by its timer, afterwards by its stream."""

    __slots__ = ("aborted", "scope", "started", "stream")

    def __init__(self, started: float) -> None:
        self.started = started
        self.aborted = False
        self.scope: asyncio.Timeout | None = None
        self.stream: HttpStream | None = None

    def abort(self) -> None:
        """Ends the attempt; more than once is fine."""
        if self.stream is not None:
            self.stream.close()
        elif not self.aborted:
            self.aborted = True
            if self.scope is not None:
                # a deadline in the past: the one wait of this attempt ends, the walk that waits is not cancelled
                self.scope.reschedule(0)

    def check(self, sent: bool) -> None:
        """Raises UpstreamFailed where the attempt has been ended."""
        if self.aborted:
            raise UpstreamFailed("the call was ended", kind="closed", sent=sent)

    def opened(self, response: ClientResponse, provider: Provider, head_s: float) -> HttpStream:
        self.stream = HttpStream(response, provider, self.started, head_s)
        return self.stream


class HttpStream:
    """An answer on its way in. Implements ports.Stream; it is its own iterator, one timer watches it."""

    __slots__ = ("_done", "_ends", "_failure", "_first", "_gap", "_loop", "_response", "_since", "_timer",
                 "headers", "status")  # fmt: skip

    def __init__(self, response: ClientResponse, provider: Provider, started: float, head_s: float) -> None:
        self.status = response.status
        self.headers = _headers(response)
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._gap = provider.gap_s
        self._ends = started + provider.total_s
        self._first = started + head_s  # until the first chunk the wait for the first token goes on
        self._since: float | None = None  # waiting for the provider since; None: it waits for us
        self._timer: asyncio.TimerHandle | None = None
        self._failure: UpstreamFailed | None = None
        self._done = False

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it is read; see ports.Stream."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        content = self._response.content
        if not content.is_eof():
            self._since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(min(self._gap, self._ends - self._since), self._watch)
        try:
            chunk = await content.readany()
        except Exception as error:
            raise self._fail(_broken(error)) from error
        self._since = None
        if chunk:
            self._first = 0.0
            return chunk
        self._done = True
        self._stop_timer()
        raise StopAsyncIteration

    def close(self, within_s: float = 0.0) -> None:
        """Ends the answer: a connection whose body was not read to its end is given up."""
        if within_s > 0:
            self._loop.call_later(within_s, self.close)
        elif not self._done and self._failure is None:
            self._fail(UpstreamFailed("the call was ended", kind="closed"))

    def _watch(self) -> None:
        """Looks again when the nearest limit could be reached; chunks themselves arm nothing."""
        now = self._loop.time()
        waits = self._since
        limit = self._ends if waits is None else min(self._ends, max(waits + self._gap, self._first))
        if now < limit:
            self._timer = self._loop.call_later(limit - now if waits is not None else self._gap, self._watch)
            return
        what = "took longer than its total time" if now >= self._ends else "sent nothing for too long"
        self._fail(UpstreamFailed(f"the provider {what}", kind="timeout"))

    def _fail(self, failure: UpstreamFailed) -> UpstreamFailed:
        if self._failure is None:
            self._failure = failure
            self._stop_timer()
            self._response.close()
        return self._failure

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Body(Payload):
    """The request's body; knows whether its first byte (and the head, which goes out with it) was handed over."""

    _autoclose = True

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)
        self.began = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Part of aiohttp's contract; nothing here asks for it."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """In slices, waiting where the provider reads slowly: 32 MB at once would hold up all other calls."""
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the connection closed before anything was written")
        self.began = True
        body: bytes = self._value
        if len(body) <= _FIRST_BYTES:
            return await writer.write(body)
        view = memoryview(body)
        await writer.write(view[:_FIRST_BYTES])
        for start in range(_FIRST_BYTES, len(body), _SLICE_BYTES):
            await writer.write(view[start : start + _SLICE_BYTES])


def _headers(response: ClientResponse) -> list[tuple[str, str]]:
    """Names in lower case; an encoding that was taken off is not claimed any longer, nor its length."""
    headers = [(name.decode("latin-1").lower(), _text(value)) for name, value in response.raw_headers]
    if not any(name == "content-encoding" and value.lower() in _DECODED for name, value in headers):
        return headers
    return [head for head in headers if head[0] not in ("content-encoding", "content-length")]


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")  # RFC 9110 section 5.5: what HTTP once was


def _socket(info: Any) -> socket.socket:
    """TCP keep-alive finds a dead peer in 2 minutes, also while an answer that isn't streamed is awaited."""
    made = socket.socket(*info[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _translate(error: BaseException, provider: Provider, attempt: _Attempt, payload: _Body | None) -> UpstreamFailed:
    """A failure before the head, in our own words: a foreign text may quote the request."""
    if isinstance(error, UpstreamFailed):
        return error
    name = provider.name
    unsent = _unconnected(error, name)
    if unsent is not None:
        return unsent
    sent = payload is None or payload.began
    if isinstance(error, TimeoutError):
        if attempt.aborted:
            return UpstreamFailed("the call was ended", kind="closed", sent=sent)
        return UpstreamFailed(f"{name} sent no answer in time", kind="timeout", sent=sent)
    if isinstance(error, (ClientOSError, ServerDisconnectedError, ConnectionError)):
        return UpstreamFailed(f"{name} closed the connection before it answered", kind="reset", sent=sent)
    return UpstreamFailed(f"{name} sent something that isn't HTTP ({type(error).__name__})", kind="protocol", sent=sent)


def _unconnected(error: BaseException, name: str) -> UpstreamFailed | None:
    """Failures of connecting: nothing can have been sent."""
    if isinstance(error, ConnectionTimeoutError):
        return UpstreamFailed(f"{name}: no connection in time", kind="connect", sent=False)
    if isinstance(error, (ClientSSLError, ssl.SSLError)):
        why = type(error).__name__ if not isinstance(error, ClientConnectorError) else error.strerror
        return UpstreamFailed(f"{name}: no trusted TLS connection ({why})", kind="tls", sent=False)
    if isinstance(error, ClientConnectorDNSError):
        return UpstreamFailed(f"{name}: its name doesn't resolve ({error.strerror})", kind="dns", sent=False)
    if isinstance(error, ClientConnectorError):
        return UpstreamFailed(f"{name}: no connection ({error.strerror})", kind="connect", sent=False)
    return None


def _broken(error: Exception) -> UpstreamFailed:
    """A failure in the middle of a body."""
    cause = type(error.__cause__).__name__ if error.__cause__ is not None else type(error).__name__
    if isinstance(error, ClientPayloadError) and "Encoding" in cause and "Transfer" not in cause:
        return UpstreamFailed("the provider's compressed answer can't be read", kind="protocol")
    return UpstreamFailed("the provider broke off in the middle of its answer", kind="reset")
