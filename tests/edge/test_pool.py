"""edge/pool.py beyond its contract (tests/contracts/test_upstream.py): connections kept, addresses, heads, the end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.core.errors import UpstreamFailed
from gateway.core.secret import Secret
from gateway.core.types import Provider
from gateway.edge.pool import Origin, PooledUpstream
from gateway.edge.resolver import PinningResolver
from tests.contracts.test_upstream import CHUNKED, OK, TEXT, Peer, asked, chunked, contexts, nothing, provider, saying
from tests.contracts.test_upstream import section as somewhere


@asynccontextmanager
async def pooled(
    secrets: dict[str, Secret] | None = None, tls: Any = True, lookup: Any = None
) -> AsyncIterator[PooledUpstream]:
    upstream = PooledUpstream(secrets or {}, tls, PinningResolver(lookup))
    try:
        yield upstream
    finally:
        await upstream.close()


async def fetch(upstream: PooledUpstream, where: Provider, body: bytes = b"{}", **named: Any) -> bytes:
    stream = await upstream.send(where, asked(**named), body, nothing)
    return b"".join([chunk async for chunk in stream.chunks()])


async def failing(awaited: Awaitable[object]) -> tuple[str, bool]:
    """How it fails: kind and sent."""
    with pytest.raises(UpstreamFailed) as failed:
        await awaited
    return failed.value.kind, failed.value.sent


async def ever(peer: Peer) -> None:
    """A provider that answers request after request."""
    while True:
        await peer.request()
        await peer.say(OK + b"content-length: 2\r\n\r\nok")


# ------------------------------------------------------------------ connections that are kept


async def test_a_connection_that_ended_before_the_first_write_is_replaced_although_the_loop_has_not_told() -> None:
    """Nothing was written, so nothing is repeated: the end is seen at the moment of use, not at the next poll."""
    ends: list[Peer] = []

    async def keeps(peer: Peer) -> None:
        ends.append(peer)
        await ever(peer)

    async with provider(keeps) as place, pooled() as upstream:
        assert b"ok" == await fetch(upstream, somewhere(place.port))
        # shut down below the loop, with no turn of it before the next write
        with socket.socket(fileno=os.dup(ends[0].writer.get_extra_info("socket").fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        assert b"ok" == await fetch(upstream, somewhere(place.port))
        assert (2, 2) == (len(place.peers), len(place.requests))


async def test_bytes_that_nobody_asked_for_are_never_the_next_answer() -> None:
    """A provider (or a proxy in front of it) that talks into an idle connection loses it."""

    async def talks(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"content-length: 2\r\n\r\nok")
        await peer.say(OK + b"content-length: 4\r\n\r\nevil")
        await peer.gone()

    async with provider(talks) as place, pooled() as upstream:
        for _ in range(3):
            assert b"ok" == await fetch(upstream, somewhere(place.port))
            await asyncio.sleep(0.01)
        assert 3 == len(place.peers)


class Kept:
    """A connection as a pool sees it."""

    def __init__(self, usable: bool = True) -> None:
        self.usable, self.idle_since, self.dropped = usable, 0.0, False

    def drop(self) -> None:
        self.dropped = True


def origin() -> Any:
    return Origin("http", "127.0.0.1", 1, True, PinningResolver())


async def test_the_connection_used_last_is_taken_first_and_dead_ones_never() -> None:
    """So that the others grow old and go."""
    place, kept = origin(), [Kept(), Kept(), Kept(usable=False)]
    for each in kept:
        place.give(each)
    now = kept[0].idle_since
    assert [kept[1], kept[0], None] == [place.take(now) for _ in range(3)]
    assert [False, False, True] == [each.dropped for each in kept]
    await place.close()


async def test_an_old_connection_is_not_used_and_its_elders_neither() -> None:
    """15 s: below what providers' edges keep, so that none is closed under a request."""
    place, kept = origin(), [Kept(), Kept()]
    for each in kept:
        place.give(each)
    assert None is place.take(kept[1].idle_since + 15.0)
    assert [True, True] == [each.dropped for each in kept]
    await place.close()


async def test_idle_connections_are_bounded() -> None:
    """256 an origin; the oldest goes."""
    place, kept = origin(), [Kept() for _ in range(258)]
    for each in kept:
        place.give(each)
    assert [True, True, False] == [each.dropped for each in kept[:3]]
    await place.close()


async def test_the_sweep_ends_what_is_old_and_sleeps_when_nothing_is_idle() -> None:
    """One timer an origin, none without need."""
    place, kept = origin(), [Kept(), Kept()]
    for each in kept:
        place.give(each)
    kept[0].idle_since -= 20
    place._sweep()
    assert ([True, False], True) == ([each.dropped for each in kept], place._sweeper is not None)
    kept[1].idle_since -= 20
    place._sweep()
    assert (True, None) == (kept[1].dropped, place._sweeper)
    await place.close()


async def test_connections_are_watched_by_tcp_keep_alive() -> None:
    """A dead peer is found although an answer may take an hour; no piece of a request waits for an earlier one's."""
    async with provider(ever) as place, pooled() as upstream:
        await fetch(upstream, somewhere(place.port))
        (found,) = upstream._origins.values()
        (connection,) = found.open
        sock = connection._transport.get_extra_info("socket")
        assert 1 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 0 != sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_local_sections_connections_serve_no_other_section() -> None:
    """One host, two sections: the one that is not local gets to no private address, not even by a kept connection."""

    async def lookup(host: str, port: int, _family: object) -> list[Any]:
        return [{"host": "127.0.0.1"}]

    async with provider(ever) as place, pooled(lookup=lookup) as upstream:
        assert b"ok" == await fetch(upstream, somewhere(place.port, host="a.example"))
        await asyncio.sleep(0)
        assert ("dns", False) == await failing(fetch(upstream, somewhere(place.port, host="a.example", local=False)))
        assert 1 == len(place.requests)


# ------------------------------------------------------------------ addresses


async def test_addresses_are_tried_in_turn_and_the_good_one_first_next_time() -> None:
    """The first refuses, the second answers; a later connection begins with that one."""

    async def lookup(host: str, port: int, _family: object) -> list[Any]:
        return [{"host": "127.0.0.9"}, {"host": "127.0.0.1"}]

    async with provider(saying(OK + b"\r\nok")) as place, pooled(lookup=lookup) as upstream:
        assert b"ok" == await fetch(upstream, somewhere(place.port, host="a.example"))
        (found,) = upstream._origins.values()
        assert "127.0.0.1" == found._good
        assert b"ok" == await fetch(upstream, somewhere(place.port, host="a.example"))


async def test_no_more_than_four_addresses_are_tried() -> None:
    """A name with a hundred dead addresses ends soon."""
    tried: list[str] = []

    async def lookup(host: str, port: int, _family: object) -> list[Any]:
        return [{"host": f"127.0.0.{i}"} for i in range(9, 30)]

    async with pooled(lookup=lookup) as upstream:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = somewhere(port, host="a.example")
        way = upstream._way(where)
        dial = way.origin._dial

        async def counting(family: int, address: str, tls: Any) -> Any:
            tried.append(address)
            return await dial(family, address, tls)

        way.origin._dial = counting  # type: ignore[method-assign]
        assert ("connect", False) == await failing(fetch(upstream, where))
    assert 4 == len(tried)


async def test_many_calls_share_one_look_up_and_it_is_kept() -> None:
    """A burst on a cold name asks the resolver once."""
    asked_for = 0
    answer = asyncio.Event()

    async def lookup(host: str, port: int, _family: object) -> list[Any]:
        nonlocal asked_for
        asked_for += 1
        await answer.wait()
        return [{"host": "127.0.0.1"}]

    async with provider(saying(OK + b"\r\nok")) as place, pooled(lookup=lookup) as upstream:
        where = somewhere(place.port, host="a.example")
        calls = [asyncio.ensure_future(fetch(upstream, where)) for _ in range(20)]
        await asyncio.sleep(0.01)
        answer.set()
        assert [b"ok"] * 20 == await asyncio.gather(*calls)
        assert b"ok" == await fetch(upstream, where)
    assert 1 == asked_for


# ------------------------------------------------------------------ heads


@pytest.mark.parametrize(
    "named",
    [
        {"headers": (("x-a", "1\r\nx-b: 2"),)},
        {"headers": (("x-a", "1\nx-b: 2"),)},
        {"headers": (("x-a", "1\rx"),)},
        {"headers": (("x-a", "1\0"),)},
        {"headers": (("x-a\r\n", "1"),)},
        {"path": "/v1/x HTTP/1.1\r\nhost: evil\r\n\r\n"},
        {"path": "/v1/x y"},
        {"query": "a=1\r\n"},
        {"query": "a b"},
        {"path": "/\ud800"},
    ],
    ids=str,
)
async def test_a_request_can_not_be_split(named: dict[str, Any]) -> None:
    """Whatever gets past the front: a line break, a NUL, a blank in the target never leaves."""
    async with provider(ever) as place, pooled() as upstream:
        assert ("protocol", False) == await failing(fetch(upstream, somewhere(place.port), **named))
        assert [] == place.peers


async def test_a_credential_with_a_line_break_never_leaves() -> None:
    """A secret file with two lines."""
    async with provider(ever) as place, pooled({"nasty": Secret("a\r\nx-evil: 1")}) as upstream:
        assert ("protocol", False) == await failing(fetch(upstream, somewhere(place.port)))


@pytest.mark.parametrize(
    ("method", "body", "told"),
    [("POST", b"", True), ("PUT", b"", True), ("PATCH", b"", True), ("DELETE", b"", False), ("DELETE", b"x", True)],
)
async def test_a_length_is_told_where_content_is_expected(method: str, body: bytes, told: bool) -> None:
    """RFC 9110 section 8.6: `content-length: 0` for methods that define content."""
    async with provider(ever) as place, pooled() as upstream:
        await fetch(upstream, somewhere(place.port), body, method=method)
        assert told is (f"content-length: {len(body)}\r\n".encode() in place.requests[0][0])


@pytest.mark.parametrize(
    ("where", "host"),
    [
        ("http://a.example", "a.example"),
        ("http://a.example:80", "a.example"),
        ("http://a.example:443", "a.example:443"),
        ("http://[::1]:8080/v", "[::1]:8080"),
        ("http://bücher.example", "xn--bcher-kva.example"),
    ],
)
async def test_the_host_is_the_origins(where: str, host: str) -> None:
    """The port only where it isn't the scheme's own; never what the client sent."""
    async with pooled() as upstream:
        way = upstream._way(Provider("p", "", where, (), local=True))
        assert f"\r\nhost: {host}\r\n" in way.request(asked(headers=(("host", "evil"),)), 0).decode()


async def test_a_reload_changes_the_credential_of_later_attempts() -> None:
    """Its connections go on; a call that began before goes on with the credential of its own configuration, so that
    none is sent to an address that another configuration named."""
    async with provider(ever) as place, pooled({"nasty": Secret("first")}) as upstream:
        where = somewhere(place.port)
        await fetch(upstream, where)
        renewed = upstream.renewed({"nasty": Secret("second")})
        await fetch(renewed, where)
        await fetch(upstream, where)
        heads = [head.decode() for head, _ in place.requests]
        assert [True] * 3 == ["first" in heads[0], "second" in heads[1], "first" in heads[2]]
        assert 1 == len(place.peers)
        await renewed.close()
        assert ("closed", False) == await failing(fetch(renewed, where))


# ------------------------------------------------------------------ the end


async def test_the_end_of_the_pool_ends_all_that_waits_without_cancelling_it() -> None:
    """A look-up, a head, a body: each ends as `closed`, and nothing begins any more."""
    began = asyncio.Event()

    async def lookup(host: str, port: int, _family: object) -> list[Any]:
        await asyncio.Event().wait()
        return []

    async def hangs(peer: Peer) -> None:
        head, _ = await peer.request()
        if b"/body" in head:
            await peer.say(CHUNKED + b"1\r\nx\r\n")
            began.set()
        await peer.gone()

    async with provider(hangs) as place, pooled(lookup=lookup) as upstream:
        where = somewhere(place.port)
        stuck = Provider("stuck", "", f"http://slow.example:{place.port}", (), local=True)
        calls = [
            asyncio.ensure_future(failing(call))
            for call in (fetch(upstream, stuck), fetch(upstream, where), fetch(upstream, where, path="/body"))
        ]
        await began.wait()
        await upstream.close()
        assert [("closed", False), ("closed", True), ("closed", True)] == await asyncio.gather(*calls)
        assert ("closed", False) == await failing(fetch(upstream, where))


async def test_an_attempt_that_is_cancelled_hangs_up() -> None:
    """Only the edge may cancel; then the provider must not go on."""
    came, left = asyncio.Event(), asyncio.Event()

    async def waits(peer: Peer) -> None:
        await peer.request()
        came.set()
        await peer.gone()
        left.set()

    async with provider(waits) as place, pooled() as upstream:
        task = asyncio.ensure_future(fetch(upstream, somewhere(place.port)))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(left.wait(), 5)


# ------------------------------------------------------------------ TLS, and the line below it


def hanging_up(trusted: ssl.SSLContext, answer: bytes, announced: bool) -> int:
    """The port of a provider on a thread of its own, which answers one request and ends the line at once; `announced`:
    as TLS wants it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, trusted.wrap_socket(listener.accept()[0], server_side=True) as end:
            end.recv(65536)
            end.sendall(answer)
            if announced:
                with suppress(OSError):
                    end.settimeout(0.05)
                    end.unwrap()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_over_tls_is_read_whole_although_its_line_has_ended(announced: bool) -> None:
    """More than may wait here came before the end: none of it is lost while its reader waits."""
    server, mine = contexts("localhost")
    text = bytes(range(256)) * 4096
    port = hanging_up(server, OK + b"content-length: %d\r\n\r\n" % len(text) + text, announced)
    async with pooled(tls=mine) as upstream:
        assert text == await fetch(upstream, somewhere(port, "https", "localhost"))


@pytest.mark.parametrize("size", [1, 4096])
async def test_over_tls_only_an_announced_end_ends_a_body_without_a_length(size: int) -> None:
    """RFC 9112 section 9.8: whoever can cut the line could else make a part look whole, and free."""
    server, mine = contexts("localhost")
    text = bytes(range(256)) * size
    async with pooled(tls=mine) as upstream:
        port = hanging_up(server, OK + b"\r\n" + text, announced=True)
        assert text == await fetch(upstream, somewhere(port, "https", "localhost"))
        port = hanging_up(server, OK + b"\r\n" + text, announced=False)
        assert ("reset", True) == await failing(fetch(upstream, somewhere(port, "https", "localhost")))


async def test_a_handshake_that_goes_nowhere_ends_with_its_connection() -> None:
    """Nothing of the request has left, and the provider's side is not kept open."""
    left = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.gone()
        left.set()

    async with provider(silent) as place, pooled(tls=contexts("localhost")[1]) as upstream:
        where = somewhere(place.port, "https", "localhost", connect_s=0.05)
        assert ("connect", False) == await failing(fetch(upstream, where))
        await asyncio.wait_for(left.wait(), 5)


# ------------------------------------------------------------------ all of it over one pool


async def test_one_pool_carries_it_all() -> None:
    """Small, large both ways, chunks, TLS, an early answer, a reset."""

    async def echo(peer: Peer) -> None:
        while True:
            _, got = await peer.request()
            await peer.say(OK + b"content-length: %d\r\n\r\n" % len(got) + got)

    async def resets(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async def early(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await peer.gone()

    large = bytes(range(256)) * 32768
    server, mine = contexts("localhost")
    async with pooled(tls=mine) as upstream:
        async with provider(echo) as place:
            assert [b"{}", large, b"{}"] == [
                await fetch(upstream, somewhere(place.port), body) for body in (b"{}", large, b"{}")
            ]
            assert 1 == len(place.peers)
        async with provider(saying(CHUNKED + chunked(TEXT, TEXT)), server) as place:
            assert TEXT * 2 == await fetch(upstream, somewhere(place.port, "https", "localhost"))
        async with provider(echo, server) as place:
            where = somewhere(place.port, "https", "localhost")
            assert [large, b"{}"] == [await fetch(upstream, where, body) for body in (large, b"{}")]
            assert 1 == len(place.peers)
        async with provider(resets) as place:
            assert ("reset", True) == await failing(fetch(upstream, somewhere(place.port)))
        async with provider(early) as place:
            assert b"big" == await fetch(upstream, somewhere(place.port), large * 2)
