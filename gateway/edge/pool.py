"""Sends one attempt to a provider over connections that are kept: implements ports.Upstream.

Invariant: a request of which a byte may have left is never sent twice; `sent` is False only if nothing left; a
section's credential goes to its own origin and nowhere else; what is connected to is the address that was judged.
What never enters: JSON, prices, a URL that a caller chose. Replacing it needs only tests/contracts/test_upstream.py.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from gateway.core.errors import UpstreamFailed
from gateway.core.headers import to_provider
from gateway.core.secret import Secret
from gateway.core.types import Inbound, Provider
from gateway.edge.resolver import PinningResolver, may_connect
from gateway.edge.stream import Answer
from gateway.edge.wire import Connection

# Shorter than the idle limit of most providers' edges, so that a pooled connection is rarely closed under a request.
_IDLE_S = 15.0
_MOST_IDLE = 256  # an origin; the server's own limit on calls in flight bounds those that are busy
_ADDRESSES_S = 10.0  # a look-up is good for so long, as in aiohttp's connector
_MOST_ADDRESSES = 4  # are tried, one after the other
_CLOSE_S = 1.0
_PORTS = {"http": 80, "https": 443}
_LENGTH_ALWAYS = frozenset({"POST", "PUT", "PATCH"})  # RFC 9110 section 8.6: also where there is no content


class Origin:
    """One place to connect to: its idle connections, newest last, and its addresses for a short time."""

    def __init__(self, scheme: str, host: str, port: int, local: bool, resolver: PinningResolver) -> None:
        self.open: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._scheme, self._host, self._port, self._local = scheme, host, port, local
        self._resolver = resolver
        self._idle: list[Connection] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._addresses: list[tuple[int, str]] = []
        self._good_until = 0.0
        self._good = ""  # the address that answered last
        self._dialing = 0
        self._looking: asyncio.Task[list[tuple[int, str]]] | None = None
        self._emptied: asyncio.Event | None = None

    @property
    def in_use(self) -> bool:
        """There are connections, or will be."""
        return bool(self.open) or self._dialing > 0

    def take(self, now: float) -> Connection | None:
        """The connection that was used last, if it is alive and young: the others may then grow old and go."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.idle_since > now - _IDLE_S and connection.usable:
                return connection
            connection.drop()
        return None

    def give(self, connection: Connection) -> None:
        """Takes back a connection whose answer came whole."""
        connection.idle_since = self._loop.time()
        if self._emptied is not None:
            return connection.drop()
        self._idle.append(connection)
        if len(self._idle) > _MOST_IDLE:
            self._idle.pop(0).drop()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_IDLE_S, self._sweep)

    async def connect(self, within_s: float, tls: ssl.SSLContext | None) -> Connection:
        """A new connection, `within_s` for each address. Raises UpstreamFailed(sent=False)."""
        self._dialing += 1
        try:
            addresses = sorted(await self._look_up(), key=lambda each: each[1] != self._good)
            for family, address in addresses[:_MOST_ADDRESSES]:
                try:
                    async with asyncio.timeout(within_s):
                        connection = await self._dial(family, address, tls)
                except OSError as error:
                    failure = _unconnected(error)
                    if failure.kind == "tls":  # it is the name that isn't trusted, wherever it leads
                        break
                else:
                    self._good = address
                    return connection
            self._good_until = 0.0  # it may have moved
            raise failure
        finally:
            self._dialing -= 1

    async def close(self) -> None:
        """Ends all connections, whatever they carry."""
        self._emptied = asyncio.Event()
        if self._looking is not None:
            self._looking.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.open):
            connection.cut()
        if self.open:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._emptied.wait()
            except TimeoutError:
                return

    async def _dial(self, family: int, address: str, tls: ssl.SSLContext | None) -> Connection:
        sock = _socket(family)
        try:
            await self._loop.sock_connect(sock, (address, self._port))
        except BaseException:
            sock.close()
            raise
        _, connection = await self._loop.create_connection(lambda: Connection(sock, self.give, self._lost), sock=sock)
        if tls is not None:
            await connection.secure(tls, self._host)
        if not connection.closed:
            self.open.add(connection)
        return connection

    async def _look_up(self) -> list[tuple[int, str]]:
        """Addresses that may be connected to; many calls at once share one look-up."""
        if self._loop.time() < self._good_until:
            return self._addresses
        if self._looking is None:
            self._looking = asyncio.create_task(self._resolve())
            self._looking.add_done_callback(self._looked)
        looking = self._looking
        try:
            return await asyncio.shield(looking)
        except asyncio.CancelledError:
            if looking.cancelled():  # by close(): the walk that waits here is not cancelled
                raise UpstreamFailed("the gateway is stopping", kind="closed", sent=False) from None
            raise

    async def _resolve(self) -> list[tuple[int, str]]:
        try:
            if _is_literal(self._host):
                found = [self._host]
            else:
                if self._local:
                    self._resolver.local.add(self._host)
                found = [each["host"] for each in await self._resolver.resolve(self._host, self._port)]
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise UpstreamFailed(f"its name doesn't resolve ({why})", kind="dns", sent=False) from error
        # judged here once more: the resolver knows names, and a name can stand in a local section and in another one
        allowed = [address for address in found if may_connect(address, self._local)]
        if not allowed:
            raise UpstreamFailed(f"{self._host} is no address for a provider", kind="dns", sent=False)
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in allowed]

    def _looked(self, task: asyncio.Task[list[tuple[int, str]]]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is None:
            self._addresses = task.result()
            self._good_until = self._loop.time() + _ADDRESSES_S

    def _lost(self, connection: Connection) -> None:
        self.open.discard(connection)
        if self._emptied is not None and not self.open:
            self._emptied.set()

    def _sweep(self) -> None:
        """Ends what was idle for too long; one timer an origin, none where nothing is idle."""
        now, idle = self._loop.time(), self._idle
        while idle and idle[0].idle_since <= now - _IDLE_S:
            idle.pop(0).drop()
        self._sweeper = self._loop.call_later(idle[0].idle_since + _IDLE_S - now, self._sweep) if idle else None


class _Way(Struct, frozen=True):
    """A section, made ready once: what is the same in each of its requests."""

    provider: Provider
    origin: Origin
    tls: ssl.SSLContext | None
    prefix: str  # of the path
    host: str  # the header's line
    own: tuple[str, ...]  # lines that we add
    has_credential: bool

    def request(self, inbound: Inbound, size_bytes: int) -> bytes:
        """The head of a request, byte for byte what the client sent but for what is ours. Raises UpstreamFailed."""
        query = f"?{inbound.query}" if inbound.query else ""
        target = f"{self.prefix}{inbound.path}{query}"
        lines = [f"{inbound.method} {target} HTTP/1.1", self.host]
        lines += [f"{name}: {value}" for name, value in to_provider(inbound.headers, self.has_credential)]
        lines += self.own
        if size_bytes or inbound.method in _LENGTH_ALWAYS:
            lines.append(f"content-length: {size_bytes}")
        breaks = len(lines) + 1
        lines += ("", "")
        text = "\r\n".join(lines)
        # The front has checked them; whoever gets past it must still not be able to write a second request.
        if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text or " " in target:
            raise UpstreamFailed("the request's head holds a line break", kind="protocol", sent=False)
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise UpstreamFailed("the request's head is no text", kind="protocol", sent=False) from error


class PooledUpstream:
    """All sections' connections. Made inside a running loop; close it at the end."""

    def __init__(
        self,
        secrets: Mapping[str, Secret],
        tls: ssl.SSLContext | bool = True,
        resolver: PinningResolver | None = None,
    ) -> None:
        self._secrets = secrets
        self._tls = tls
        self._resolver = resolver if resolver is not None else PinningResolver()
        self._loop = asyncio.get_running_loop()
        self._ways: dict[str, _Way] = {}
        self._origins: dict[tuple[str, str, int, bool], Origin] = {}
        self._closed = False

    async def send(
        self,
        provider: Provider,
        inbound: Inbound,
        body: bytes,
        on_open: Callable[[Callable[[], None]], None],
        whole: bool = False,
    ) -> Answer:
        """Sends the request and waits for the answer's head: first_token_s, or total_s where the answer comes `whole`
        (a provider that doesn't stream sends its head only after the last token). Raises UpstreamFailed.
        """
        answer = Answer(provider, self._loop, whole, inbound.method == "HEAD")
        on_open(answer.close)
        answer.check()
        way = self._ways.get(provider.name)
        if way is None or way.provider is not provider:
            way = self._way(provider)
        request = way.request(inbound, len(body))
        connection = way.origin.take(answer.started)
        if connection is None:
            connection = await self._connect(way, answer)
        await answer.head(connection, request, body)
        return answer

    def renewed(self, secrets: Mapping[str, Secret]) -> PooledUpstream:
        """The pool of another configuration, over the same connections; this one goes on with its own credentials for
        the calls that began with it, so that no new credential goes to an old section's address."""
        made = PooledUpstream(secrets, self._tls, self._resolver)
        made._origins = self._origins
        for key in [key for key, origin in self._origins.items() if not origin.in_use]:
            del self._origins[key]
        return made

    async def close(self) -> None:
        """Ends the pool and what still runs over it."""
        self._closed = True
        self._ways.clear()
        for origin in self._origins.values():
            await origin.close()

    async def _connect(self, way: _Way, answer: Answer) -> Connection:
        name = way.provider.name
        try:
            async with answer.connecting():
                connection = await way.origin.connect(way.provider.connect_s, way.tls)
        except TimeoutError as error:
            answer.check()
            raise UpstreamFailed(f"{name} sent no answer in time", kind="timeout", sent=False) from error
        except UpstreamFailed as failure:
            raise UpstreamFailed(f"{name}: {failure}", kind=failure.kind, sent=False) from failure.__cause__
        if connection.closed:
            raise UpstreamFailed(f"{name} closed the connection at once", kind="connect", sent=False)
        try:
            answer.check()
        except UpstreamFailed:
            way.origin.give(connection)
            raise
        return connection

    def _way(self, provider: Provider) -> _Way:
        if self._closed:
            raise UpstreamFailed("the gateway is stopping", kind="closed", sent=False)
        url = urlsplit(provider.origin)
        host = url.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode()
        port = url.port or _PORTS[url.scheme]
        if not may_connect(host, provider.local):
            raise UpstreamFailed(f"{provider.name}: {host} is no address for a provider", kind="dns", sent=False)
        shown = f"[{host}]" if ":" in host else host
        secret = self._secrets.get(provider.name)
        credential = () if secret is None else (_credential(provider.quirks.auth, secret.reveal()),)
        # wire-formats.md section 10: compressed streams come late and in lumps
        way = _Way(
            provider,
            self._origin(url.scheme, host, port, provider.local),
            self._trust() if url.scheme == "https" else None,
            url.path,
            f"host: {shown}" if port == _PORTS[url.scheme] else f"host: {shown}:{port}",
            ("accept-encoding: identity", *credential),
            secret is not None,
        )
        self._ways[provider.name] = way
        return way

    def _origin(self, scheme: str, host: str, port: int, local: bool) -> Origin:
        """Sections with one origin share its connections, but for a local one: it may lead where others must not."""
        key = (scheme, host, port, local)
        if key not in self._origins:
            self._origins[key] = Origin(scheme, host, port, local, self._resolver)
        return self._origins[key]

    def _trust(self) -> ssl.SSLContext:
        """Whom to trust: read from disk once (20 ms), at the first section that needs it. Never nobody."""
        if not isinstance(self._tls, ssl.SSLContext):
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


def _credential(where: str, text: str) -> str:
    return f"authorization: Bearer {text}" if where == "bearer" else f"{where}: {text}"


def _unconnected(error: OSError) -> UpstreamFailed:
    """Why there is no connection, in our own words."""
    if isinstance(error, ssl.SSLError):
        why = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        failure = UpstreamFailed(f"no trusted TLS connection ({why})", kind="tls", sent=False)
    elif isinstance(error, TimeoutError):
        failure = UpstreamFailed("no connection in time", kind="connect", sent=False)
    else:
        failure = UpstreamFailed(
            f"no connection ({error.strerror or type(error).__name__})", kind="connect", sent=False
        )
    failure.__cause__ = error
    return failure


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _socket(family: int) -> socket.socket:
    """TCP keep-alive finds a dead peer in 2 minutes, also while an answer that isn't streamed is awaited. A request's
    last piece never waits for the provider's word on the one before; uvloop alone would see to that itself."""
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
