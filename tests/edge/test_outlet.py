"""edge/outlet.py on a real listener: an answer is whole, or it is seen not to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway.edge.listener import make_runner
from gateway.edge.outlet import HttpOutlet

Answer = Callable[[HttpOutlet], Awaitable[None]]
JSON = [("content-type", "application/json"), ("x-a", "1"), ("x-a", "2")]


@asynccontextmanager
async def served(answer: Answer, stalled_s: float = 5.0) -> AsyncIterator[int]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        outlet = HttpOutlet(request, stalled_s)
        try:
            # as the server does it: the handler is cancelled when the client leaves, the work is not
            await asyncio.shield(asyncio.ensure_future(answer(outlet)))
        except asyncio.CancelledError:
            outlet.leave()
            raise
        if outlet.response is None or not outlet.ended:
            outlet.abort()
        return outlet.response or web.Response()

    runner = make_runner(handle, lambda _event, _fields: None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def got(port: int, line: str = "GET / HTTP/1.1") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_whole_answer_has_its_length_and_headers() -> None:
    """Repeats stay repeats; the software isn't told."""
    async with served(lambda outlet: outlet.whole(529, JSON, b"{}")) as port:
        head, _, body = (await got(port)).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert (True, b"{}") == (lines[0].startswith("http/1.1 529"), body)
    assert {"content-length: 2", "x-a: 1", "x-a: 2", "server: meterbox", "content-type: application/json"} <= set(lines)


@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 5_000_000])
async def test_a_whole_answer_of_any_size_arrives_whole(size: int) -> None:
    """In one write or in slices."""
    body = bytes(size)
    async with served(lambda outlet: outlet.whole(200, JSON, body)) as port:
        head, _, found = (await got(port)).partition(b"\r\n\r\n")
    assert body == found and f"content-length: {size}".encode() in head.lower()


@pytest.mark.parametrize(
    ("line", "end"), [("GET / HTTP/1.1", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"), ("GET / HTTP/1.0", b"ab")]
)
async def test_a_streamed_answer_is_chunked_where_the_client_can_read_that(line: str, end: bytes) -> None:
    """HTTP/1.0 ends with its connection."""

    async def answer(outlet: HttpOutlet) -> None:
        await outlet.start(200, JSON)
        await outlet.write(b"a")
        await outlet.write(b"b")
        await outlet.end()

    async with served(answer) as port:
        assert end == (await got(port, line)).partition(b"\r\n\r\n")[2]


async def test_a_head_has_no_body() -> None:
    """HEAD: the same head, nothing after it."""

    async def answer(outlet: HttpOutlet) -> None:
        await outlet.start(200, JSON)
        await outlet.write(b"a")
        await outlet.end()

    async with served(answer) as port:
        assert (await got(port, "HEAD / HTTP/1.1")).endswith(b"\r\n\r\n")


async def test_an_aborted_answer_is_seen_not_to_be_whole() -> None:
    """No last chunk; the callbacks run."""
    left: list[int] = []

    async def answer(outlet: HttpOutlet) -> None:
        outlet.on_gone(lambda: left.append(1))
        await outlet.start(200, JSON)
        await outlet.write(b"a")
        outlet.abort()
        await outlet.write(b"b")
        await outlet.end()

    async with served(answer) as port:
        assert not (await got(port)).endswith(b"0\r\n\r\n")
    assert [1] == left


async def test_a_second_answer_breaks_the_first_off() -> None:
    """Only a defect of ours asks for that; two answers in one must not look like one."""

    async def answer(outlet: HttpOutlet) -> None:
        await outlet.start(200, JSON)
        await outlet.whole(200, JSON, b"{}")

    async with served(answer) as port:
        assert b"{}" not in await got(port)


async def test_who_asks_after_the_client_left_is_told_at_once_and_each_one_once() -> None:
    """on_gone before and after; leaving twice changes nothing."""
    told: list[str] = []

    async def answer(outlet: HttpOutlet) -> None:
        outlet.on_gone(lambda: told.append("before"))
        outlet.leave()
        outlet.leave()
        outlet.on_gone(lambda: told.append("after"))
        await outlet.start(200, JSON)
        await outlet.whole(200, JSON, b"{}")

    async with served(answer) as port:
        await got(port)
    assert ["before", "after"] == told


@pytest.mark.parametrize("way", ["stream", "whole"])
async def test_a_client_that_takes_nothing_is_cut_after_its_time(way: str) -> None:
    """60 s without progress (here 0.1): the walk gets its end."""
    ended = asyncio.Event()

    async def answer(outlet: HttpOutlet) -> None:
        if way == "whole":
            await outlet.whole(200, JSON, bytes(64 << 20))
        else:
            await outlet.start(200, JSON)
            while not outlet.gone:
                await outlet.write(bytes(1 << 20))
        ended.set()

    async with served(answer, stalled_s=0.1) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 5)
        writer.close()
