"""edge/upstream.py beyond its contract (tests/contracts/test_upstream.py): the pool, reloads, and the way through."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from gateway.core.errors import UpstreamFailed
from gateway.core.secret import Secret
from gateway.core.types import Inbound, Provider
from gateway.edge.outlet import HttpOutlet
from gateway.edge.upstream import HttpUpstream
from tests.contracts.test_upstream import OK, Peer, asked, client, nothing, provider, saying, section, whole
from tests.edge.test_server import house


async def twice(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.say(OK + b"content-length: 2\r\n\r\nok")


async def test_a_pooled_connection_that_dies_before_the_first_byte_is_replaced() -> None:
    """Closed between the choice of the connection and the first write: nothing left, so a fresh one is safe."""
    async with provider(twice) as place, client() as upstream:
        await whole(upstream, section(place.port))
        (pool,) = upstream._session.connector._conns.values()  # type: ignore[union-attr]
        transport = pool[0][0].transport
        assert transport is not None
        task = asyncio.ensure_future(whole(upstream, section(place.port)))
        asyncio.get_running_loop().call_soon(transport.close)
        assert b"ok" == await task
        assert (2, 2) == (len(place.peers), len(place.requests))


async def test_a_reload_changes_the_credential_of_later_attempts() -> None:
    """Also for a section that stayed the same otherwise."""
    async with provider(twice) as place, client({"nasty": Secret("first")}) as upstream:
        where = section(place.port)
        await whole(upstream, where)
        upstream.renew({"nasty": Secret("second")})
        await whole(upstream, where)
        heads = [head.decode().lower() for head, _ in place.requests]
    assert ["first" in heads[0], "second" in heads[1]] == [True, True]


async def test_connections_are_watched_by_tcp_keep_alive() -> None:
    """A dead peer is found although an answer may take an hour."""
    async with provider(saying(OK + b"\r\nx")) as place, client() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        connection = stream._response.connection
        assert connection is not None and connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert 1 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        stream.close()


async def relay(upstream: HttpUpstream, where: Provider, inbound: Inbound, outlet: HttpOutlet) -> None:
    """The smallest walk that there is."""
    stream = await upstream.send(where, inbound, inbound.body, outlet.on_gone)
    await outlet.start(stream.status, stream.headers)
    async for chunk in stream.chunks():
        await outlet.write(chunk)
    await outlet.end()


async def test_a_slow_client_stops_the_providers_stream() -> None:
    """Back-pressure through the whole gateway: what is in between is bounded, whatever the provider has to say."""
    wrote = 0

    async def floods(peer: Peer) -> None:
        nonlocal wrote
        await peer.request()
        await peer.say(OK + b"\r\n")
        for _ in range(4096):
            await peer.say(bytes(65536))
            wrote += 65536

    async with provider(floods) as place, client() as upstream:

        async def walk(inbound: Inbound, _p: object, _d: object, outlet: HttpOutlet) -> None:
            await relay(upstream, section(place.port), inbound, outlet)

        async with house(walk) as h:
            _, writer = await asyncio.open_connection("127.0.0.1", h.port, limit=1024)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            before = -1
            while wrote != before or not wrote:
                before = wrote
                await asyncio.sleep(0.1)
            assert wrote < 32 << 20
            writer.close()


async def test_a_client_that_leaves_closes_the_providers_connection() -> None:
    """Waste: whoever left pays for no further token."""
    hung_up = asyncio.Event()

    async def streams(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK + b"\r\nfirst")
        await peer.gone()
        hung_up.set()

    async with provider(streams) as place, client() as upstream:

        async def walk(inbound: Inbound, _p: object, _d: object, outlet: HttpOutlet) -> None:
            with suppress(UpstreamFailed):
                await relay(upstream, section(place.port), inbound, outlet)

        async with house(walk) as h:
            reader, writer = await h.raw(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
            )
            await reader.readuntil(b"first")
            writer.close()
            await asyncio.wait_for(hung_up.wait(), 5)
