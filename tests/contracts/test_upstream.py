"""Conformance suite of ports.Upstream: nasty providers on raw sockets. A new client must pass it unchanged.

Invariant: whatever a provider does, `send` or `chunks` ends with its bytes or with UpstreamFailed; never a hang, never
a foreign exception, never a second POST. Providers here write raw bytes; no HTTP library helps them to be correct.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import brotli  # type: ignore[import-untyped]  # has no stubs
import pytest
import trustme
from backports import zstd

from gateway.core.errors import UpstreamFailed
from gateway.core.secret import Secret
from gateway.core.types import Inbound, Labels, Provider, Quirks
from gateway.edge.pool import PooledUpstream
from gateway.edge.resolver import PinningResolver

Script = Callable[["Peer"], Awaitable[None]]
TEXT = b"the quick brown fox " * 50


class Peer:
    """One connection as the provider sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number
        self.requests: list[tuple[bytes, bytes]] = []

    async def request(self) -> tuple[bytes, bytes]:
        """Reads a whole request: its head and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
        body = await self.reader.readexactly(length)
        self.requests.append((head, body))
        return head, body

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Waits until the other side has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            return


class Place:
    """A listening provider: its address, and what it saw."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []

    @property
    def requests(self) -> list[tuple[bytes, bytes]]:
        return [request for peer in self.peers for request in peer.requests]


@asynccontextmanager
async def provider(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    place = Place()
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        peer = Peer(reader, writer, len(place.peers))
        place.peers.append(peer)
        try:
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as failure:  # noqa: BLE001  told at the end of the test
            place.failures.append(failure)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=1 << 26)
    place.port = server.sockets[0].getsockname()[1]
    try:
        yield place
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        if running:
            await asyncio.wait(tuple(running))
        assert place.failures == []


@asynccontextmanager
async def client(
    secrets: dict[str, Secret] | None = None, tls: ssl.SSLContext | bool = True, resolver: PinningResolver | None = None
) -> AsyncIterator[PooledUpstream]:
    """The client under test."""
    upstream = PooledUpstream(secrets or {}, tls, resolver)
    try:
        yield upstream
    finally:
        await upstream.close()


def section(port: int, scheme: str = "http", host: str = "127.0.0.1", **named: object) -> Provider:
    limits = {"connect_s": 2.0, "first_token_s": 5.0, "gap_s": 5.0, "total_s": 30.0, "local": True} | named
    return Provider("nasty", "", f"{scheme}://{host}:{port}", (), **limits)  # type: ignore[arg-type]


def asked(
    method: str = "POST", path: str = "/v1/x", query: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Inbound:
    return Inbound(method, None, path, path, query, headers, b"", Labels(), "", None, 0.0)


def nothing(_abort: Callable[[], None]) -> None:
    """A caller that never ends its attempt."""


async def whole(
    upstream: PooledUpstream, where: Provider, body: bytes = b"{}", inbound: Inbound | None = None
) -> bytes:
    stream = await upstream.send(where, inbound or asked(), body, nothing)
    return b"".join([chunk async for chunk in stream.chunks()])


def saying(*parts: bytes, close: bool = True) -> Script:
    """A provider that answers every request with these bytes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for part in parts:
            await peer.say(part)
        if not close:
            await peer.gone()

    return script


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

READABLE = {
    "content-length": OK + b"content-length: 5\r\n\r\nhello",
    "chunked": CHUNKED + chunked(b"hel", b"lo"),
    "close-delimited": OK + b"\r\nhello",
    "http/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "103 early hints first": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
    "100 continue unasked": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK + b"content-length: 5\r\n\r\nhello",
    "chunk extensions": CHUNKED + b'3;a=b;c="d"\r\nhel\r\n2;z\r\nlo\r\n0;last\r\n\r\n',
    "trailers": CHUNKED + b"5\r\nhello\r\n0\r\nx-checksum: 1\r\nx-other: 2\r\n\r\n",
    "upper-case hex and zeros": CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n",
    "folded header names": b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 5\r\n\r\nhello",
    "no reason phrase": b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello",
    "long header": OK + b"x-policy: " + b"p" * 20_000 + b"\r\ncontent-length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("wire", READABLE.values(), ids=READABLE.keys())
@pytest.mark.parametrize("cut", [0, 1, 7])
async def test_a_legal_answer_is_read_whole_however_it_is_framed_and_cut(wire: bytes, cut: int) -> None:
    """1xx, extensions, trailers, any framing, any packets: the same body."""
    parts = [wire] if not cut else [wire[i : i + cut * 97] for i in range(0, len(wire), cut * 97)]
    if cut == 1 and len(wire) < 500:
        parts = [wire[i : i + 1] for i in range(len(wire))]
    async with provider(saying(*parts)) as place, client() as upstream:
        assert await whole(upstream, section(place.port)) == b"hello"


BROKEN = {
    "nothing at all": b"",
    "garbage status line": b"HELLO WORLD\r\n\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "both framings": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"hello"),
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "negative length": OK + b"content-length: -5\r\n\r\nhello",
    "length too long": OK + b"content-length: 50\r\n\r\nhello",
    "bad chunk size": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "unfinished chunks": CHUNKED + b"5\r\nhello\r\n",
    "head cut off": b"HTTP/1.1 200 OK\r\ncontent-le",
    "huge header": OK + b"x: " + b"y" * 100_000 + b"\r\ncontent-length: 5\r\n\r\nhello",
    "endless headers": OK + b"".join(b"x-%d: y\r\n" % i for i in range(1000)) + b"content-length: 5\r\n\r\nhello",
    "nul in header": OK + b"x: a\x00b\r\ncontent-length: 5\r\n\r\nhello",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello",
}


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN.keys())
async def test_an_illegal_answer_fails_as_sent_and_never_hangs(wire: bytes) -> None:
    """Garbage is UpstreamFailed with sent=True: the request left, so money may have been spent."""
    async with provider(saying(wire)) as place, client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port))
        assert (True, 1) == (failed.value.sent, len(place.requests))
        assert failed.value.kind in ("reset", "protocol")


ENCODED = {
    "gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "br": brotli.compress(TEXT),
    "zstd": zstd.compress(TEXT),
}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("slow", [False, True])
async def test_a_compressed_answer_is_decoded_although_identity_was_asked(encoding: str, slow: bool) -> None:
    """The bytes come decoded and the headers no longer claim an encoding or a length that isn't true."""
    data = ENCODED[encoding]
    parts = [data[i : i + 5] for i in range(0, len(data), 5)] if slow else [data]
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-encoding: %s\r\n\r\n" % encoding.encode())
    async with provider(saying(head, *[chunked(p)[:-5] for p in parts], b"0\r\n\r\n")) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        assert TEXT == b"".join([chunk async for chunk in stream.chunks()])
        assert [] == [name for name, _ in stream.headers if name in ("content-encoding", "content-length")]


async def test_a_broken_compressed_answer_fails_as_protocol() -> None:
    """gzip that isn't gzip."""
    wire = OK + b"content-encoding: gzip\r\ncontent-length: 9\r\n\r\nnot gzip!"
    async with provider(saying(wire)) as place, client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port))
        assert "protocol" == failed.value.kind


async def test_an_unknown_encoding_passes_with_its_header() -> None:
    """What nobody decoded keeps saying what it is."""
    wire = OK + b"content-encoding: aws-x\r\ncontent-length: 5\r\n\r\nhello"
    async with provider(saying(wire)) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        assert ("content-encoding", "aws-x") in list(stream.headers)
        assert b"hello" == b"".join([chunk async for chunk in stream.chunks()])


async def test_an_error_page_passes_as_it_came() -> None:
    """A proxy's HTML page is the provider's answer, not a failure."""
    page = b"<html><h1>502 Bad Gateway</h1></html>"
    wire = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\ncontent-length: %d\r\n\r\n%s" % (len(page), page)
    async with provider(saying(wire)) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        assert (502, page) == (stream.status, b"".join([chunk async for chunk in stream.chunks()]))
        assert ("content-type", "text/html") in list(stream.headers)


async def test_a_redirect_is_never_followed() -> None:
    """A redirect would take the credential elsewhere."""
    wire = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    async with provider(saying(wire)) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        assert (307, 1) == (stream.status, len(place.requests))


# ------------------------------------------------------------------ what is sent


async def test_the_request_leaves_byte_for_byte_and_with_nothing_added() -> None:
    """Path, query, body and headers in their own spelling; only host, length and accept-encoding are ours."""
    body = '{"a":  1e2,"ü":"\\u00fc"}'.encode()
    sent = asked(path="/v1/a%2Bb/%c3%bc;x=1/~a", query="b=%20+%2f&a=&a", headers=(("x-one", "1"), ("x-one", "ü")))
    async with provider(saying(OK + b"content-length: 0\r\n\r\n")) as place, client() as upstream:
        await whole(upstream, section(place.port), body, sent)
        head, got = place.requests[0]
    line, *lines = head.decode().split("\r\n")[:-2]
    assert ("POST /v1/a%2Bb/%c3%bc;x=1/~a?b=%20+%2f&a=&a HTTP/1.1", body) == (line, got)
    assert [
        f"host: 127.0.0.1:{place.port}",
        "x-one: 1",
        "x-one: ü",
        "accept-encoding: identity",
        f"content-length: {len(body)}",
    ] == [f"{name.lower()}:{value}" for name, _, value in (each.partition(":") for each in lines)]


@pytest.mark.parametrize(
    ("auth", "header"), [("bearer", "authorization: Bearer s3cret"), ("x-api-key", "x-api-key: s3cret")]
)
async def test_a_sections_credential_replaces_the_clients(auth: str, header: str) -> None:
    """The client's own key stays behind, all of its places."""
    own = (("authorization", "Bearer mine"), ("x-api-key", "mine"), ("api-key", "mine"), ("cookie", "a=mine"))
    async with provider(saying(OK + b"content-length: 0\r\n\r\n")) as place:
        where = section(place.port, quirks=Quirks(auth=auth))
        async with client({"nasty": Secret("s3cret")}) as upstream:
            await whole(upstream, where, inbound=asked(headers=own))
        head = place.requests[0][0].decode().lower()
    assert (True, False) == (header.lower() in head, "mine" in head)


async def test_a_prefix_of_the_origin_stands_in_front_of_the_path() -> None:
    """`base_url` may have a path."""
    async with provider(saying(OK + b"content-length: 0\r\n\r\n")) as place, client() as upstream:
        where = Provider("p", "", f"http://127.0.0.1:{place.port}/api/proxy", (), local=True)
        await whole(upstream, where)
        assert place.requests[0][0].startswith(b"POST /api/proxy/v1/x HTTP/1.1\r\n")


async def test_32_mb_go_out_and_come_back() -> None:
    """Large bodies, both ways, untouched."""
    body = bytes(range(256)) * (32 * 4096)

    async def echo(peer: Peer) -> None:
        _, got = await peer.request()
        await peer.say(OK + b"content-length: %d\r\n\r\n" % len(got))
        await peer.say(got)

    async with provider(echo) as place, client() as upstream:
        assert body == await whole(upstream, section(place.port), body)


async def test_an_early_answer_is_read_although_the_request_was_not_taken() -> None:
    """413 in the middle of an upload that the provider stopped reading: its answer counts, nothing hangs."""

    async def early(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 7\r\nconnection: close\r\n\r\ntoo big")
        await peer.gone()

    async with provider(early) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"x" * (16 << 20), nothing)
        assert (413, b"too big") == (stream.status, b"".join([chunk async for chunk in stream.chunks()]))


# ------------------------------------------------------------------ connections


async def test_a_connection_is_used_again() -> None:
    """A second call needs no second handshake."""

    async def twice(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(OK + b"content-length: 2\r\n\r\nok")

    async with provider(twice) as place, client() as upstream:
        answers = [await whole(upstream, section(place.port)) for _ in range(3)]
        assert ([b"ok"] * 3, 1, 3) == (answers, len(place.peers), len(place.requests))


async def test_a_reused_connection_that_dies_under_a_post_is_never_repeated() -> None:
    """The provider read the request and closed: it may have been billed, so it is reported as sent."""

    async def dies(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"content-length: 2\r\n\r\nok")
        await peer.request()

    async with provider(dies) as place, client() as upstream:
        await whole(upstream, section(place.port))
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port))
        assert ("reset", True, 2) == (failed.value.kind, failed.value.sent, len(place.requests))


async def test_a_pooled_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    """Closed between two calls: the second call takes a fresh one."""

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"content-length: 2\r\n\r\nok")

    async with provider(once) as place, client() as upstream:
        for _ in range(5):
            assert b"ok" == await whole(upstream, section(place.port))
        assert (5, 5) == (len(place.peers), len(place.requests))


async def test_an_answer_followed_by_garbage_spoils_only_its_connection() -> None:
    """Bytes after the end are never taken for the next call's answer."""

    async def smuggles(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"content-length: 2\r\n\r\nok" + OK + b"content-length: 4\r\n\r\nevil")
        await peer.gone()

    async with provider(smuggles) as place, client() as upstream:
        assert [b"ok", b"ok"] == [await whole(upstream, section(place.port)) for _ in range(2)]


async def test_half_close_ends_a_body_without_length() -> None:
    """The provider shuts its sending side only; the body ends there and the connection is not used again."""

    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"\r\nhello")
        peer.writer.write_eof()
        await peer.gone()

    async with provider(half) as place, client() as upstream:
        assert [b"hello", b"hello"] == [await whole(upstream, section(place.port)) for _ in range(2)]
        assert 2 == len(place.peers)


async def test_a_reset_in_the_body_fails_after_the_bytes_that_came() -> None:
    """What came before the reset was handed on."""
    read = asyncio.Event()

    async def resets(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"5\r\nhello\r\n")
        await read.wait()
        peer.reset()

    async with provider(resets) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        chunks = stream.chunks()
        assert b"hello" == await anext(chunks)
        read.set()
        with pytest.raises(UpstreamFailed) as failed:
            await anext(chunks)
        assert ("reset", True) == (failed.value.kind, failed.value.sent)


async def test_a_reset_before_the_head_fails_as_sent() -> None:
    """RST after the request was read."""

    async def resets(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with provider(resets) as place, client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port))
        assert ("reset", True, 502) == (failed.value.kind, failed.value.sent, failed.value.status)


async def test_a_refused_connection_was_not_sent() -> None:
    """Nobody listens: nothing can have been billed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(port))
        assert ("connect", False, 502) == (failed.value.kind, failed.value.sent, failed.value.status)


async def test_a_listener_that_never_accepts_ends_in_time() -> None:
    """A full backlog: connecting ends after connect_s, as not sent."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with client() as upstream:
            with pytest.raises(UpstreamFailed) as failed:
                await whole(upstream, section(port, connect_s=0.1))
        for filler in fillers:
            filler.close()
        assert ("connect", False) == (failed.value.kind, failed.value.sent)


async def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    """DNS failure."""

    async def lookup(_host: str, _port: int, _family: object) -> list:
        raise OSError(None, "Name or service not known")

    async with client(resolver=PinningResolver(lookup)) as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(1, host="nowhere.example", local=False))
        assert ("dns", False) == (failed.value.kind, failed.value.sent)


async def test_a_public_name_that_resolves_to_a_private_address_is_not_connected_to() -> None:
    """DNS rebinding: the connection is made to the address that was judged, or not at all."""

    async def lookup(host: str, port: int, _family: object) -> list:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    resolver = PinningResolver(lookup)
    async with provider(saying(OK + b"content-length: 0\r\n\r\n")) as place, client(resolver=resolver) as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port, host="api.example", local=False))
        assert ("dns", False, []) == (failed.value.kind, failed.value.sent, place.peers)
        assert b"" == await whole(upstream, section(place.port, host="api.example", local=True))


async def test_a_literal_private_address_is_refused_unless_local() -> None:
    """No look-up happens for a literal, so it is judged by itself."""
    async with client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(9, local=False))
        assert ("dns", False) == (failed.value.kind, failed.value.sent)


# ------------------------------------------------------------------ TLS


def contexts(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server)
    mine = ssl.create_default_context()
    authority.configure_trust(mine)
    return server, mine


async def test_tls_works_where_the_certificate_is_trusted() -> None:
    """The name that is checked is the provider's own."""
    server, mine = contexts("localhost")
    async with provider(saying(CHUNKED + chunked(TEXT)), server) as place, client(tls=mine) as upstream:
        assert TEXT == await whole(upstream, section(place.port, "https", "localhost"))


@pytest.mark.parametrize("named", ["other.example", "localhost"])
async def test_tls_that_can_not_be_trusted_was_not_sent(named: str) -> None:
    """A wrong name, an unknown authority: the request doesn't leave."""
    server, mine = contexts(named)
    tls = mine if named == "other.example" else ssl.create_default_context()
    async with provider(saying(OK + b"\r\n"), server) as place, client(tls=tls) as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port, "https", "localhost"))
        assert ("tls", False, []) == (failed.value.kind, failed.value.sent, place.requests)


async def test_plain_http_on_a_tls_port_was_not_sent() -> None:
    """The handshake fails; no byte of the request is in it."""

    async def plain(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with provider(plain) as place, client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port, "https", "localhost"))
        assert (False, True) == (failed.value.sent, failed.value.kind in ("tls", "connect"))


# ------------------------------------------------------------------ time


def hanging(*parts: bytes) -> Script:
    return saying(*parts, close=False)


async def test_no_head_in_time_is_a_timeout() -> None:
    """first_token_s ends the wait; 504, and it was sent."""
    async with provider(hanging()) as place, client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await whole(upstream, section(place.port, first_token_s=0.05))
        assert ("timeout", True, 504) == (failed.value.kind, failed.value.sent, failed.value.status)


async def test_a_whole_answer_may_take_its_total_time() -> None:
    """A provider that doesn't stream sends its head after the last token: first_token_s doesn't apply there."""
    late = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await late.wait()
        await peer.say(OK + b"content-length: 2\r\n\r\nok")

    async with provider(slow) as place, client() as upstream:
        loop = asyncio.get_running_loop()
        loop.call_later(0.15, late.set)
        stream = await upstream.send(section(place.port, first_token_s=0.02), asked(), b"{}", nothing, whole=True)
        assert b"ok" == b"".join([chunk async for chunk in stream.chunks()])


@pytest.mark.parametrize("limit", ["gap_s", "total_s"])
async def test_a_stall_in_the_body_is_a_timeout(limit: str) -> None:
    """What came was handed on; then the gap or the total time ends it."""
    named: dict[str, Any] = {"gap_s": 5.0, "total_s": 30.0, "first_token_s": 0.1} | {limit: 0.15}
    async with provider(hanging(CHUNKED + b"5\r\nhello\r\n")) as place, client() as upstream:
        stream = await upstream.send(section(place.port, **named), asked(), b"{}", nothing)
        chunks = stream.chunks()
        assert b"hello" == await anext(chunks)
        with pytest.raises(UpstreamFailed) as failed:
            await anext(chunks)
        assert ("timeout", 504) == (failed.value.kind, failed.value.status)


async def test_a_slow_drip_is_no_stall() -> None:
    """Each gap is short, so it may take longer than one gap."""

    async def drips(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        for _ in range(8):
            await asyncio.sleep(0.03)
            await peer.say(b"1\r\nx\r\n")
        await peer.say(b"0\r\n\r\n")

    async with provider(drips) as place, client() as upstream:
        assert b"x" * 8 == await whole(upstream, section(place.port, gap_s=0.15, first_token_s=0.15))


async def test_the_first_chunk_may_wait_as_long_as_the_first_token() -> None:
    """A head at once and the first token later: gap_s begins after the first chunk."""

    async def thinks(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        await asyncio.sleep(0.15)
        await peer.say(chunked(b"hello"))

    async with provider(thinks) as place, client() as upstream:
        assert b"hello" == await whole(upstream, section(place.port, gap_s=0.03, first_token_s=2.0))


async def test_a_reader_that_waits_is_no_stall_and_stops_the_provider() -> None:
    """Nobody reads: the provider can't write on for ever, and the gap is not counted against it."""
    wrote = 0

    async def floods(peer: Peer) -> None:
        nonlocal wrote
        await peer.request()
        await peer.say(OK + b"\r\n")
        sock = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        for _ in range(2048):
            await peer.say(b"x" * 65536)
            wrote += 65536

    async with provider(floods) as place, client() as upstream:
        stream = await upstream.send(section(place.port, gap_s=0.05), asked(), b"{}", nothing)
        chunks = stream.chunks()
        await anext(chunks)
        await asyncio.sleep(0.25)
        assert wrote < 16 << 20
        assert await anext(chunks)
        stream.close()


# ------------------------------------------------------------------ ending it from outside


async def test_close_before_the_head_ends_the_attempt_and_the_connection() -> None:
    """The walk isn't cancelled: its wait ends with kind `closed`, and the provider sees the hang-up."""
    left, asked_ = asyncio.Event(), asyncio.Event()

    async def waits(peer: Peer) -> None:
        await peer.request()
        asked_.set()
        await peer.gone()
        left.set()

    aborts: list[Callable[[], None]] = []
    async with provider(waits) as place, client() as upstream:
        task = asyncio.ensure_future(upstream.send(section(place.port), asked(), b"{}", aborts.append))
        await asked_.wait()
        aborts[0]()
        aborts[0]()
        with pytest.raises(UpstreamFailed) as failed:
            await task
        assert ("closed", True, False) == (failed.value.kind, failed.value.sent, task.cancelled())
        await asyncio.wait_for(left.wait(), 5)
        aborts[0]()


async def test_close_while_connecting_was_not_sent() -> None:
    """Ended before a byte left: nothing is owed."""
    looking = asyncio.Event()

    async def lookup(_host: str, _port: int, _family: object) -> list:
        looking.set()
        await asyncio.Event().wait()
        return []

    aborts: list[Callable[[], None]] = []
    async with client(resolver=PinningResolver(lookup)) as upstream:
        task = asyncio.ensure_future(upstream.send(section(1, host="slow.example"), asked(), b"{}", aborts.append))
        await looking.wait()
        aborts[0]()
        with pytest.raises(UpstreamFailed) as failed:
            await task
        assert ("closed", False) == (failed.value.kind, failed.value.sent)


async def test_an_attempt_that_was_ended_before_it_began_sends_nothing() -> None:
    """The client left while the call waited for its budget."""
    async with provider(hanging()) as place, client() as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await upstream.send(section(place.port), asked(), b"{}", lambda abort: abort())
        assert ("closed", False, []) == (failed.value.kind, failed.value.sent, place.peers)


@pytest.mark.parametrize("how", ["stream", "attempt"])
async def test_close_in_the_body_wakes_its_reader_and_hangs_up(how: str) -> None:
    """From anywhere, more than once; the provider sees it."""
    left = asyncio.Event()

    async def streams(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"5\r\nhello\r\n")
        await peer.gone()
        left.set()

    aborts: list[Callable[[], None]] = []
    async with provider(streams) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", aborts.append)
        chunks = stream.chunks()
        await anext(chunks)
        waiting = asyncio.ensure_future(anext(chunks))
        close = stream.close if how == "stream" else aborts[0]
        asyncio.get_running_loop().call_soon(close)
        with pytest.raises(UpstreamFailed) as failed:
            await waiting
        close()
        assert "closed" == failed.value.kind
        with pytest.raises(UpstreamFailed):
            await anext(chunks)
        await asyncio.wait_for(left.wait(), 5)


async def test_close_after_the_end_keeps_the_connection() -> None:
    """A body that was read whole is done: closing is no hang-up."""

    async def twice(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(OK + b"content-length: 2\r\n\r\nok")

    async with provider(twice) as place, client() as upstream:
        for _ in range(2):
            stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
            assert [b"ok"] == [chunk async for chunk in stream.chunks()]
            stream.close()
        assert 1 == len(place.peers)


async def test_no_failure_quotes_a_credential_or_a_body() -> None:
    """Messages are ours: foreign texts may quote the request."""
    body, own = b'{"prompt":"CANARY-BODY"}', (("authorization", "Bearer CANARY-KEY"),)
    for wire in BROKEN.values():
        async with provider(saying(wire)) as place, client({"nasty": Secret("CANARY-SECRET")}) as upstream:
            with pytest.raises(UpstreamFailed) as failed:
                await whole(upstream, section(place.port), body, asked(headers=own))
            assert "CANARY" not in str(failed.value)


async def test_a_get_without_body_is_asked_and_answered() -> None:
    """Free paths have no body and no length."""
    async with provider(saying(OK + b"content-length: 2\r\n\r\nok")) as place, client() as upstream:
        assert b"ok" == await whole(upstream, section(place.port), b"", asked("GET"))
        assert b"content-length" not in place.requests[0][0].lower()
