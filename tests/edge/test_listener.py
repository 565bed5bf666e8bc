"""edge/listener.py: what holds for every listener; its limits under real traffic are in test_server.py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import aiohttp.http_parser
import pytest
from aiohttp import web

from gateway.core.errors import ConfigError
from gateway.edge.listener import error_page, make_runner, wind_up


async def nothing(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


def quiet(_event: str, _fields: object) -> None:
    """Nobody listens."""


async def test_without_the_c_parser_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-53643: the Python parser lets requests be smuggled."""
    monkeypatch.setattr(aiohttp.http_parser, "HttpRequestParser", aiohttp.http_parser.HttpRequestParserPy)
    with pytest.raises(ConfigError, match="C parser"):
        make_runner(nothing, quiet)


async def test_the_server_itself_cancels_handlers() -> None:
    """The runner takes the same argument and ignores it; production's default is False (style.md, rule 1)."""
    runner = make_runner(nothing, quiet)
    await runner.setup()
    assert runner.server is not None
    assert runner.server.handler_cancellation is True
    await runner.cleanup()


@pytest.mark.parametrize(("status", "expected"), [(400, 400), (404, 400), (500, 500), (504, 500)])
def test_an_error_page_is_json_and_ends_its_connection(status: int, expected: int) -> None:
    """No HTML, no traceback, no version of a library."""
    page = error_page(status, "BadStatusLine")
    assert (expected, "application/json", "meterbox") == (page.status, page.content_type, page.headers["server"])
    assert page.keep_alive is False


async def test_a_client_that_does_not_take_its_last_bytes_is_not_kept_for_ever() -> None:
    """Closing waits until everything is written: without a limit, a client that never reads is never let go."""
    answering: list[asyncio.Transport] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        answering.append(request.transport)
        stuck = request.transport.get_write_buffer_size() > 0
        page = web.Response(body=bytes(4096))
        if stuck:
            page.force_close()
        return page

    runner = make_runner(answer, quiet, connections=1, taken_s=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = socket.socket()
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(runner.addresses[0])
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while not (answering and answering[-1].is_closing()):
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.sleep(0.001)
        assert 0 < answering[-1].get_write_buffer_size() < 65536
        assert runner.server is not None
        async with asyncio.timeout(5):
            while runner.server.connections:  # noqa: ASYNC110  the kernel has no event to wait for
                await asyncio.sleep(0.01)
    finally:
        client.close()
        await runner.cleanup()


def test_connections_are_limited_by_what_descriptors_there_are() -> None:
    """The limit of the system is raised as far as it goes; what is left over is for the house itself."""
    told = subprocess.run([sys.executable, "-c", _LIMITS], capture_output=True, text=True, check=True, timeout=60)
    assert ["8192 16640", "100 456", "1 40"] == told.stdout.splitlines()


_LIMITS = """
import resource
from gateway.edge.listener import MOST_CONNECTIONS, affordable
for soft, hard in ((64, 17_000), (64, 456), (40, 40)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(affordable(MOST_CONNECTIONS), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


async def test_winding_up_lets_what_is_under_way_end_and_nobody_new_in() -> None:
    """A connection that rests is closed at once; one that is being answered, or brings a body, after its answer."""
    go, asked = asyncio.Event(), asyncio.Queue[str]()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.put_nowait(request.path)
        size = len(await request.content.read())
        await go.wait()
        return web.Response(text=f"{request.path} {size}")

    runner = make_runner(answer, quiet)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    rests, served, brings = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    try:
        async with asyncio.timeout(10):
            served[1].write(b"GET /served HTTP/1.1\r\nhost: x\r\n\r\n")
            brings[1].write(b"POST /brings HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
            assert {"/served", "/brings"} == {await asked.get(), await asked.get()}
            assert runner.server is not None
            while len(runner.server.connections) < 3:  # noqa: ASYNC110  accepted in the loop's own time
                await asyncio.sleep(0.001)
            await site.stop()
            wind_up(runner)
            assert b"" == await rests[0].read()
            brings[1].write(b"def")
            go.set()
            said = [await reader.read() for reader, _ in (served, brings)]  # to the end of each connection
            assert [b"/served 0", b"/brings 6"] == [one.partition(b"\r\n\r\n")[2] for one in said]
            assert asked.empty()
    finally:
        for _, writer in (rests, served, brings):
            writer.close()
        await runner.cleanup()
