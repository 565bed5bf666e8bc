"""edge/outlet.py on a real listener: an answer is whole, or it is seen not to be."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.http import HttpVersion11
from multidict import CIMultiDict

from gateway.edge.listener import make_runner
from gateway.edge.outlet import HttpOutlet

Answer = Callable[[HttpOutlet], Awaitable[None]]
JSON = [("content-type", "application/json"), ("x-a", "1"), ("x-a", "2")]
DATED = [*JSON, ("date", "Sat, 21 Nov 2026 19:00:00 GMT")]
CLOSING = "host: x\r\nconnection: close\r\n\r\n"


@asynccontextmanager
async def listening(handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    runner = make_runner(handle, lambda _event, _fields: None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


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

    async with listening(handle) as port:
        yield port


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


@pytest.mark.parametrize("line", ["GET / HTTP/1.1", "GET / HTTP/1.0", "HEAD / HTTP/1.1"])
@pytest.mark.parametrize("status", [200, 204, 304, 529])
async def test_a_streamed_answer_is_byte_for_byte_what_aiohttp_sends(line: str, status: int) -> None:
    """Pieces of any size, also none at all: an empty one must not end the answer."""
    pieces = [b"a", b"", b"data: {}\n\n" * 40, bytes(70_000), b"", b"0\r\n\r\n", b"z"]

    async def theirs(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=CIMultiDict([*DATED, ("server", "meterbox")]))
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        await response.prepare(request)
        for piece in pieces if request.method != "HEAD" and status not in (204, 304) else ():
            await response.write(piece)
        await response.write_eof()
        return response

    async def ours(outlet: HttpOutlet) -> None:
        await outlet.start(status, DATED)
        for piece in pieces:
            await outlet.write(piece)
        await outlet.end()

    async with listening(theirs) as port:
        expected = await got(port, line)
    async with served(ours) as port:
        assert expected == await got(port, line)
    assert expected.startswith(b"HTTP/1.")


@pytest.mark.parametrize("request_head", [
    f"GET / HTTP/1.1\r\n{CLOSING}", f"HEAD / HTTP/1.1\r\n{CLOSING}", f"GET / HTTP/1.0\r\n{CLOSING}",
    "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    f"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\n{CLOSING}", f"OPTIONS / HTTP/1.1\r\n{CLOSING}",
])  # fmt: skip
@pytest.mark.parametrize(("status", "headers", "body"), [
    (200, DATED, b'{"a": 1}'), (200, JSON, b"{}"), (200, [], b"a"), (200, [], b""), (529, DATED, b"{}"),
    (204, DATED, b""), (204, DATED, b"a"), (304, DATED, b"a"), (200, DATED, b"\x1f\x8b\x08" * 9), (401, JSON, b"{}"),
    (200, [*DATED, ("content-encoding", "gzip")], b"\x1f\x8b"), (200, [("Content-Type", "a"), ("DATE", "b")], b"{}"),
    (200, [*DATED, ("x-a", "caf\u00e9 \U0001f600")], b"{}"), (200, [*DATED, ("x-a", "a\tb")], b"{}"),
    (200, [*DATED, ("connection", "close")], b"{}"), (200, [*DATED, ("content-length", "2")], b"{}"),
    (200, [*DATED, ("server", "x"), ("Server", "y")], b"{}"), (200, DATED, bytes(262_144)), (100, DATED, b""),
])  # fmt: skip
async def test_a_whole_answer_is_byte_for_byte_what_aiohttp_sends(
    request_head: str, status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    """Ours leaves in one write of our own; whoever reads it can't tell."""

    async def theirs(_request: web.BaseRequest) -> web.StreamResponse:
        own = CIMultiDict(headers)
        own["server"] = "meterbox"
        return web.Response(status=status, headers=own, body=body)

    async def raw(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_head.encode())
        try:
            return re.sub(rb"\r\nDate: [^\r]+", b"\r\nDate: now", await reader.read())
        finally:
            writer.close()

    async with listening(theirs) as port:
        expected = await raw(port)
    async with served(lambda outlet: outlet.whole(status, headers, body)) as port:
        assert expected == await raw(port)
    assert expected.startswith(b"HTTP/1.") and (status < 200 or b"server: " in expected.lower())


@pytest.mark.parametrize("bad", ["a\r\nset-cookie: b=c", "a\nb", "a\x00b", "a\x7f", "a\rb"])
@pytest.mark.parametrize("where", ["name", "value"])
async def test_no_header_begins_another_one(bad: str, where: str) -> None:
    """aiohttp's refusal stands: an answer with a line break in its head doesn't leave at all."""
    odd = (bad, "a") if where == "name" else ("x-a", bad)
    async with served(lambda outlet: outlet.whole(200, [*JSON, odd], b"{}")) as port:
        found = await got(port)
    assert b"set-cookie" not in found and b"200 OK" not in found


async def test_answers_to_pipelined_requests_come_in_order_on_one_connection() -> None:
    """Small ones, large ones and streamed ones mixed; the last one says close, and it is closed."""
    sizes = [1, 300_000, 0, 5, 262_144, 7]
    left = iter(sizes)

    async def answer(outlet: HttpOutlet) -> None:
        size = next(left)
        if size == 5:
            await outlet.start(200, JSON)
            await outlet.write(bytes(size))
            return await outlet.end()
        await outlet.whole(200, JSON, bytes(size))

    async with served(answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * (len(sizes) - 1))
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        for size in sizes:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if size == 5:
                assert b"transfer-encoding: chunked" in head
                assert b"5\r\n" + bytes(5) + b"\r\n0\r\n\r\n" == await reader.readexactly(15)
            else:
                assert f"content-length: {size}\r\n".encode() in head
                assert bytes(size) == await reader.readexactly(size)
            assert (size == sizes[-1]) == (b"connection: close" in head)
        assert b"" == await reader.read()
        writer.close()


async def test_a_client_that_only_asks_is_answered_no_further_than_it_reads_and_then_cut() -> None:
    """Pipelined requests for answers of 200 KB, none of them read: what waits for it is bounded, also in time."""
    begun: list[HttpOutlet] = []
    told = asyncio.Event()

    async def answer(outlet: HttpOutlet) -> None:
        begun.append(outlet)
        outlet.on_gone(told.set)
        await outlet.whole(200, JSON, bytes(200_000))

    async with served(answer, stalled_s=0.2) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 500)
            await asyncio.wait_for(told.wait(), 5)
    assert len(begun) < 60  # the kernel takes a few MB


async def test_a_client_that_hangs_up_while_its_answer_waits_for_room_ends_the_wait() -> None:
    """Long before the 60 s: by the lost connection."""
    stuck, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        outlet = HttpOutlet(request, stalled_s=60)
        answering = asyncio.ensure_future(outlet.whole(200, JSON, bytes(262_144)))
        await asyncio.sleep(0)
        if request.protocol.writing_paused:
            assert not answering.done()
            answering.add_done_callback(lambda _: ended.set())
            stuck.set()
        await asyncio.shield(answering)
        return outlet.response or web.Response()

    async with listening(handle) as port:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a polite end
        client.connect(("127.0.0.1", port))
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 500)
        await asyncio.wait_for(stuck.wait(), 5)
        client.close()
        await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_on_a_line_that_is_closing_nothing_is_written_and_the_client_counts_as_gone(way: str) -> None:
    """The transport knows before the loop has told anybody."""
    gone: list[bool] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        outlet = HttpOutlet(request)
        if way == "stream":
            await outlet.start(200, JSON)
        assert request.transport is not None
        request.transport.close()
        await (outlet.whole(200, JSON, b"{}") if way == "whole" else outlet.write(b"{}"))
        gone.append(outlet.gone)
        return outlet.response or web.Response()

    async with listening(handle) as port:
        assert not (await got(port)).partition(b"\r\n\r\n")[2]
    assert [True] == gone


async def test_a_defect_behind_a_whole_answer_adds_no_second_one() -> None:
    """aiohttp must know that bytes have left, or it would answer 500 behind them."""

    async def answer(outlet: HttpOutlet) -> None:
        await outlet.whole(200, JSON, b"{}")
        raise RuntimeError("behind it")

    async with served(answer) as port:
        assert 1 == (await got(port)).count(b"HTTP/1.1 ")


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
