"""edge/stream.py beyond the contract (tests/contracts/test_upstream.py): codings taken off, limits of time, endings."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import brotli  # type: ignore[import-untyped]  # has no stubs
import pytest
from backports import zstd

from gateway.core.errors import UpstreamFailed
from gateway.edge.stream import Unpacking, Unreadable
from tests.contracts.test_upstream import CHUNKED, OK, TEXT, Peer, asked, chunked, nothing, provider, saying, section
from tests.edge.test_pool import failing, fetch, pooled

BOMB = bytes(64 << 20)
PACKED = {
    "gzip": gzip.compress(BOMB),
    "x-gzip": gzip.compress(BOMB),
    "deflate": zlib.compress(BOMB),
    "br": brotli.compress(BOMB, quality=1),
    "zstd": zstd.compress(BOMB),
}


def steps(coding: str, *pieces: bytes) -> tuple[list[bytes], Unpacking]:
    packed = Unpacking(coding)
    out = []
    for piece in pieces:
        packed.feed(piece)
        while packed.pending:
            out.append(packed.step())
    return [chunk for chunk in out if chunk], packed


@pytest.mark.parametrize("coding", PACKED)
def test_a_bomb_goes_off_in_steps_of_a_megabyte(coding: str) -> None:
    """64 MB in a few KB: never more than a step in memory, and none lost."""
    out, packed = steps(coding, PACKED[coding])
    assert (len(BOMB), True) == (sum(map(len, out)), packed.whole)
    # brotli's buffer grows by blocks and may end above the mark that it was given
    assert max(map(len, out)) <= (2 << 20 if coding == "br" else 1 << 20)


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_any_cut_gives_the_same_text(coding: str, size: int) -> None:
    """As a parser: the network's pieces don't matter; an end in the middle is seen."""
    pack = {"br": brotli.compress, "zstd": zstd.compress, "deflate": zlib.compress}.get(coding, gzip.compress)
    data = pack(TEXT * 20)
    out, packed = steps(coding, *[data[i : i + size] for i in range(0, len(data), size)])
    assert (TEXT * 20, True) == (b"".join(out), packed.whole)
    assert not steps(coding, data[: len(data) // 2])[1].whole


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_follow_each_other(coding: str) -> None:
    """RFC 1952 section 2.2, RFC 8878 section 3.1: a body may be several, cut anywhere."""
    pack = gzip.compress if coding == "gzip" else zstd.compress
    data = pack(b"one ") + pack(b"") + pack(b"two")
    for size in (1, 5, len(data)):
        out, packed = steps(coding, *[data[i : i + size] for i in range(0, len(data), size)])
        assert (b"one two", True) == (b"".join(out), packed.whole)


def test_raw_deflate_is_read_as_well() -> None:
    """Some send the format without its two bytes in front."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = packer.compress(TEXT) + packer.flush()
    assert TEXT == b"".join(steps("deflate", data)[0])


@pytest.mark.parametrize("coding", PACKED)
def test_garbage_is_unreadable(coding: str) -> None:
    """Each library's own error is translated."""
    with pytest.raises(Unreadable):
        steps(coding, b"\xff\xfe not at all \x00" * 10)


def compressed(body: bytes) -> bytes:
    return OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def test_a_compressed_body_that_ends_in_the_middle_is_not_whole() -> None:
    """Its framing is in order, its text is not all there."""
    async with provider(saying(compressed(gzip.compress(TEXT)[:-9]))) as place, pooled() as upstream:
        assert ("protocol", True) == await failing(fetch(upstream, section(place.port)))


async def test_an_empty_body_is_whole_whatever_coding_it_names() -> None:
    """Errors and redirects do that."""
    async with provider(saying(compressed(b""))) as place, pooled() as upstream:
        assert b"" == await fetch(upstream, section(place.port))


async def test_a_bomb_on_the_wire_lets_other_calls_work_and_can_be_closed() -> None:
    """Its reader gets a step at a time; what is not wanted is never unpacked."""
    async with provider(saying(compressed(PACKED["gzip"]), close=False)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        chunks = stream.chunks()
        assert 1 << 20 == len(await anext(chunks))
        asyncio.get_running_loop().call_soon(stream.close)
        assert ("closed", True) == await failing(_rest(chunks))


async def _rest(chunks: object) -> None:
    async for _ in chunks:  # type: ignore[attr-defined]
        pass


# ------------------------------------------------------------------ time


async def test_a_gap_after_the_first_chunk_is_not_given_the_first_tokens_time() -> None:
    """A long first_token_s ends with the first chunk: the timer that looked while it was awaited doesn't sleep on."""

    async def thinks(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        await asyncio.sleep(0.15)  # longer than a gap
        await peer.say(b"1\r\nx\r\n")
        await peer.gone()

    async with provider(thinks) as place, pooled() as upstream:
        where = section(place.port, first_token_s=20.0, gap_s=0.1)
        stream = await upstream.send(where, asked(), b"{}", nothing)
        assert b"x" == await anext(stream.chunks())
        async with asyncio.timeout(2):
            assert ("timeout", True) == await failing(_rest(stream.chunks()))


async def test_what_came_whole_may_be_read_at_leisure() -> None:
    """total_s is the provider's time, not the reader's."""
    async with provider(saying(CHUNKED + chunked(b"all"), close=False)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port, total_s=0.1), asked(), b"{}", nothing)
        await asyncio.sleep(0.2)
        assert [b"all"] == [chunk async for chunk in stream.chunks()]


async def test_a_stream_without_end_ends_with_its_total_time() -> None:
    """It never pauses for long, its reader takes all: total_s ends it."""

    async def drips(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        while True:
            await peer.say(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)

    async with provider(drips) as place, pooled() as upstream:
        assert ("timeout", True) == await failing(fetch(upstream, section(place.port, total_s=0.2)))


# ------------------------------------------------------------------ endings


async def test_what_came_before_a_failure_is_handed_on_in_one_packet_or_many() -> None:
    """Bytes, then garbage where a chunk should be: the reader gets the bytes, then hears of it, each time it asks."""
    async with provider(saying(CHUNKED + b"5\r\nhello\r\nzz\r\n", close=False)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        chunks = stream.chunks()
        assert b"hello" == await anext(chunks)
        for _ in range(2):
            with pytest.raises(UpstreamFailed) as failed:
                await anext(chunks)
            assert ("protocol", 502) == (failed.value.kind, failed.value.status)


async def test_a_close_with_a_moment_lets_what_has_come_be_read() -> None:
    """After a cut: what the provider had written is on the bill."""
    async with provider(saying(CHUNKED + b"5\r\nhello\r\n", close=False)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        stream.close(0.05)
        assert b"hello" == await anext(stream.chunks())
        assert ("closed", True) == await failing(_rest(stream.chunks()))


async def test_a_close_at_once_hands_nothing_on() -> None:
    """Also when all of it has come: the caller said that it wants no more."""
    async with provider(saying(CHUNKED + chunked(b"all"), close=False)) as place, pooled() as upstream:
        stream = await upstream.send(section(place.port), asked(), b"{}", nothing)
        stream.close()
        assert ("closed", True) == await failing(_rest(stream.chunks()))
