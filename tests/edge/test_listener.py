"""edge/listener.py: what holds for every listener; its limits under real traffic are in test_server.py."""

from __future__ import annotations

import aiohttp.http_parser
import pytest
from aiohttp import web

from gateway.core.errors import ConfigError
from gateway.edge.listener import error_page, make_runner


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
