"""One connection from the provider to the client: who is slow or gone at one end is felt at the other (R-063)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gateway.core.errors import UpstreamFailed
from gateway.core.types import Inbound, Provider
from gateway.edge.outlet import HttpOutlet
from gateway.edge.pool import PooledUpstream
from tests.contracts.test_upstream import OK, Peer, client, provider, section
from tests.edge.test_server import house


async def relay(upstream: PooledUpstream, where: Provider, inbound: Inbound, outlet: HttpOutlet) -> None:
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
