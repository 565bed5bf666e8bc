"""edge/wire.py beyond the contract (tests/contracts/test_upstream.py): framing, limits, back-pressure, reuse."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from gateway.edge.stream import Answer
from gateway.edge.wire import Connection
from tests.contracts.test_upstream import CHUNKED, OK, Peer, asked, chunked, nothing, provider, saying, section
from tests.edge.test_pool import failing, fetch, pooled

LENGTH = OK + b"content-length: 2\r\n"
ANSWER = LENGTH + b"\r\nok"


class Line:
    """A transport without a network: what was written, and when it read no more."""

    def __init__(self) -> None:
        self.wrote: list[bytes] = []
        self.switches: list[str] = []
        self.ended = False
        self.waiting = 0
        self.tls: object = None

    def write(self, data: Any) -> None:
        self.wrote.append(bytes(data))

    def pause_reading(self) -> None:
        self.switches.append("stop")

    def resume_reading(self) -> None:
        self.switches.append("go")

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> object:
        return self.tls if name == "sslcontext" else None


class Desk:
    """A connection on such a line, and the pool that it goes back to."""

    def __init__(self) -> None:
        self.line = Line()
        self.given: list[Connection] = []
        self.ends, self._far = socket.socketpair()
        self.connection = Connection(self.ends, self.given.append, lambda _: None)
        self.connection.connection_made(self.line)  # type: ignore[arg-type]

    def ask(self, method: str = "POST", body: bytes = b"") -> Answer:
        answer = Answer(section(1), asyncio.get_running_loop(), False, method == "HEAD")
        answer._carrier = self.connection
        self.connection.ask(answer, b"head", body)
        return answer


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    made.ends.close()
    made._far.close()


# ------------------------------------------------------------------ framing

ILLEGAL = {
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "bare LF in the head": OK + b"a: b\ncontent-length: 2\r\n\r\nok",
    "bare CR": OK + b"a: b\rc: d\r\ncontent-length: 2\r\n\r\nok",
    "bare LF in chunks": CHUNKED + b"2\nok\n0\n\n",
    "folded line": OK + b"a: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
    "blank before the colon": OK + b"content-length : 2\r\n\r\nok",
    "length and chunks": LENGTH + b"transfer-encoding: chunked\r\n\r\n" + chunked(b"ok"),
    "chunks and length": OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n" + chunked(b"ok"),
    "the same length twice": LENGTH + b"content-length: 2\r\n\r\nok",
    "a list of lengths": OK + b"content-length: 2, 2\r\n\r\nok",
    "a signed length": OK + b"content-length: +2\r\n\r\nok",
    "an endless length": OK + b"content-length: 99999999999999999999999\r\n\r\nok",
    "chunks twice": CHUNKED[:-2] + b"transfer-encoding: chunked\r\n\r\n" + chunked(b"ok"),
    "another coding of the transfer": OK + b"transfer-encoding: gzip, chunked\r\n\r\n" + chunked(b"ok"),
    "a coding without chunks": OK + b"transfer-encoding: identity\r\n\r\nok",
    "an endless chunk": CHUNKED + b"fffffffffffffffff\r\nok",
    "a status below 100": b"HTTP/1.1 099 No\r\ncontent-length: 2\r\n\r\nok",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
    "101 without upgrade": b"HTTP/1.1 101 Switching\r\n\r\n" + ANSWER,
    "1xx with a length": b"HTTP/1.1 103 Early\r\ncontent-length: 3\r\n\r\nabc" + ANSWER,
    "1xx with chunks": b"HTTP/1.1 199 Early\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"abc") + ANSWER,
    "257 headers": OK + b"a: b\r\n" * 256 + b"content-length: 2\r\n\r\nok",
    "a head above 64 KB": OK + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)) + b"\r\nok",
    "a head without end": OK + b"x: " + b"y" * 300_000,
    "1xx without end": b"HTTP/1.1 103 Early\r\nlink: </x>\r\n\r\n" * 20_000,
    "257 trailers": CHUNKED + b"2\r\nok\r\n0\r\n" + b"a: b\r\n" * 257 + b"\r\n",
    "a trailer without end": CHUNKED + b"2\r\nok\r\n0\r\nx: " + b"y" * 600_000,
    "a chunk extension without end": CHUNKED + b"2;x=" + b"y" * 600_000,
}


@pytest.mark.parametrize("wire", ILLEGAL.values(), ids=ILLEGAL.keys())
async def test_what_can_be_read_in_two_ways_or_never_ends_is_a_protocol_failure(wire: bytes) -> None:
    """RFC 9112 sections 5 and 6; the connection stays open, so only a limit or the framing can end it."""
    async with provider(saying(wire, close=False)) as place, pooled() as upstream:
        assert ("protocol", True) == await failing(fetch(upstream, section(place.port)))


async def test_256_headers_and_64_kb_of_head_are_read() -> None:
    """The limits themselves are legal, also when body comes in the same packet."""
    many = OK + b"a: b\r\n" * 255 + b"content-length: 2\r\n\r\nok"
    long = OK + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(62)) + b"content-length: 200000\r\n\r\n"
    for wire, body in ((many, b"ok"), (long + b"z" * 200_000, b"z" * 200_000)):
        async with provider(saying(wire)) as place, pooled() as upstream:
            assert body == await fetch(upstream, section(place.port))


async def test_values_come_as_they_were_sent() -> None:
    """Empty ones, repeats, UTF-8, what HTTP once was; without the blanks around them."""
    wire = LENGTH + b"x-empty:\r\nX-Two: 1\r\nx-two:  2 \t\r\nx-utf: \xc3\xbc\r\nx-old: \xfc\r\n\r\nok"
    async with provider(saying(wire)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        assert [
            ("content-length", "2"), ("x-empty", ""), ("x-two", "1"), ("x-two", "2"), ("x-utf", "ü"), ("x-old", "ü"),
        ] == list(stream.headers)  # fmt: skip
        stream.close()


async def test_trailers_are_dropped_and_never_the_next_answers_headers() -> None:
    """They come after the head was judged, so they can't be trusted to say anything."""

    async def trails(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED + b"2\r\nok\r\n0\r\nx-late: 1\r\nx-later: 2\r\n\r\n")
        await peer.request()
        await peer.say(ANSWER)

    async with provider(trails) as place, pooled() as upstream:
        assert b"ok" == await fetch(upstream, section(place.port))
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        assert ([("content-length", "2")], 1) == (list(stream.headers), len(place.peers))
        stream.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_body_ends_with_its_head(status: int) -> None:
    """Whatever length it tells; the connection goes on."""

    async def empty(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(b"HTTP/1.1 %d X\r\n\r\n" % status)

    async with provider(empty) as place, pooled() as upstream:
        assert [b"", b""] == [await fetch(upstream, section(place.port)) for _ in range(2)]
        assert 1 == len(place.peers)


async def test_the_answer_to_head_has_no_body_whatever_it_says() -> None:
    """RFC 9110 section 9.3.2; nothing waits for the body, and the coding stays told."""
    wire = LENGTH + b"content-encoding: gzip\r\n\r\n"
    async with provider(saying(wire, close=False)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port), asked("HEAD"), b"", nothing)
        assert [] == [chunk async for chunk in stream.chunks()]
        assert [("content-length", "2"), ("content-encoding", "gzip")] == list(stream.headers)


# ------------------------------------------------------------------ use again


@pytest.mark.parametrize(
    "wire",
    [
        ANSWER + b"x",
        ANSWER + ANSWER,
        LENGTH + b"connection: close\r\n\r\nok",
        LENGTH + b"connection: close\r\n\r\nokx",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"ok"),
        CHUNKED + chunked(b"ok") + b"0",
    ],
    ids=str,
)
async def test_a_connection_with_a_doubtful_end_is_not_used_again(desk: Desk, wire: bytes) -> None:
    """Something behind the answer, or a provider that said that it ends: the answer is whole all the same."""
    answer = desk.ask()
    desk.connection.data_received(wire)
    assert ([b"ok"], [], True) == ([chunk async for chunk in answer.chunks()], desk.given, desk.line.ended)


async def test_an_answer_before_the_requests_end_spoils_the_connection(desk: Desk) -> None:
    """The rest of the request would be read as the next one: part of it in our hands, or in the transport's."""
    desk.connection.pause_writing()
    answer = desk.ask(body=b"x" * 100_000)
    desk.connection.data_received(ANSWER)
    assert ([b"ok"], [], True) == ([chunk async for chunk in answer.chunks()], desk.given, desk.line.ended)
    other = Desk()
    answer = other.ask(body=b"x" * 100_000)
    other.line.waiting = 1
    other.connection.data_received(ANSWER)
    assert ([b"ok"], []) == ([chunk async for chunk in answer.chunks()], other.given)
    other.ends.close()
    other._far.close()


@pytest.mark.parametrize(("tls", "status"), [(None, 200), (object(), 0)])
async def test_an_answer_that_the_kernel_still_holds_when_a_write_fails_is_read(
    desk: Desk, tls: object, status: int
) -> None:
    """A refused upload: 48 of 60 lost their free 413, and were charged as if they had been served. TLS stays closed."""
    desk.line.tls = tls
    desk.ends.setblocking(False)
    answer = desk.ask(body=b"x" * 100_000)
    desk._far.send(ANSWER)
    desk.line.ended = True
    desk.connection.connection_lost(BrokenPipeError())
    assert status == answer.status
    if status:
        assert ([b"ok"], []) == ([chunk async for chunk in answer.chunks()], desk.given)


async def test_what_the_kernel_still_holds_is_read_within_the_bound(desk: Desk) -> None:
    """An answer that isn't whole by then stays broken, and no more of it waits in memory than otherwise."""
    desk.ends.setblocking(False)
    for end in (desk.ends, desk._far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    desk._far.setblocking(False)
    answer = desk.ask()
    sent = desk._far.send(OK + b"content-length: 9000000\r\n\r\n" + b"x" * 2_000_000)
    desk.line.ended = True
    desk.connection.connection_lost(ConnectionResetError())
    got = b""

    async def read() -> None:
        nonlocal got
        async for chunk in answer.chunks():
            got += chunk

    assert ("reset", True) == await failing(read())
    assert 0 < len(got) < min(sent, (128 + 256) << 10)


async def test_bytes_into_an_idle_connection_end_it(desk: Desk) -> None:
    """Nobody asked."""
    desk.ask()
    desk.connection.data_received(ANSWER)
    assert ([desk.connection], False) == (desk.given, desk.line.ended)
    desk.connection.data_received(b"\r\n")
    assert (True, False) == (desk.line.ended, desk.connection.usable)


# ------------------------------------------------------------------ both directions, bounded


async def test_a_small_request_leaves_in_one_write(desk: Desk) -> None:
    """Head and body: one packet, one system call."""
    desk.ask(body=b"x" * 65536)
    assert [b"head" + b"x" * 65536] == desk.line.wrote


async def test_a_large_request_leaves_as_fast_as_it_is_taken(desk: Desk) -> None:
    """In slices; none while the transport has enough, and no byte is lost or doubled."""
    body = bytes(range(256)) * 4096
    write = desk.line.write

    def full(data: Any) -> None:
        write(data)
        desk.connection.pause_writing()

    desk.line.write = full  # type: ignore[method-assign]
    desk.ask(body=body)
    sizes = [len(b"".join(desk.line.wrote))]
    while sizes[-1] < len(body) + 4:
        desk.connection.resume_writing()
        sizes.append(len(b"".join(desk.line.wrote)))
    assert (b"head" + body, 262_144) == (b"".join(desk.line.wrote), max(b - a for a, b in pairwise(sizes)))
    desk.connection.resume_writing()
    assert len(body) + 4 == len(b"".join(desk.line.wrote))


async def test_a_reader_that_waits_stops_the_provider_and_goes_on_where_it_was(desk: Desk) -> None:
    """More than 128 KB unread: no more is read from the network until it was taken."""
    answer = desk.ask()
    desk.connection.data_received(OK + b"\r\n")
    for _ in range(2):
        desk.connection.data_received(b"x" * 65_000)
    assert [] == desk.line.switches
    desk.connection.data_received(b"x" * 65_000)
    desk.connection.data_received(b"x" * 65_000)  # what the loop had read already
    assert ["stop"] == desk.line.switches
    assert 260_000 == len(await anext(answer))
    assert ["stop", "go"] == desk.line.switches
    desk.connection.data_received(b"y")
    assert (b"y", ["stop", "go"]) == (await anext(answer), desk.line.switches)
    answer.close()


async def test_a_connection_goes_back_reading(desk: Desk) -> None:
    """The end of a large answer may come while its reader waits: the pool must hear of the connection's end."""
    answer = desk.ask()
    desk.connection.data_received(OK + b"content-length: 300000\r\n\r\n" + b"x" * 200_000)
    assert ["stop"] == desk.line.switches
    desk.connection.data_received(b"x" * 100_000)
    assert (["stop", "go"], [desk.connection]) == (desk.line.switches, desk.given)
    assert 300_000 == sum([len(chunk) async for chunk in answer.chunks()])
