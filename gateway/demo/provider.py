"""The scripted provider on the wire: OpenAI chat, Responses and Anthropic messages, with a bill of its own.

Invariant: what was made is billed, sent or not: input and tokens so far for a stream that is left, everything for an
answer in one piece (a real provider finishes those). What never enters: anything of the gateway; it is a stranger here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import msgspec
from aiohttp import web

from gateway.demo import wire_chat, wire_messages, wire_responses
from gateway.demo.bill import Bill, Row
from gateway.demo.script import Answer, Prompt, Script, answer, script_for

_MOST_BODY = 64 * 1024 * 1024
_MOST_STALL_S = 3_600.0
_WIRES: dict[str, ModuleType] = {
    "/v1/chat/completions": wire_chat,
    "/v1/responses": wire_responses,
    "/v1/messages": wire_messages,
}


class ScriptedProvider:
    """`await start()`, then point a gateway (or an agent) at `origin`; `bill_nusd()` is what it would invoice.

    `script` holds for every request, `scripts[tag]` instead for one payer's; the header `x-scripted: {json}` overrides
    knobs of one request. The payer is the credential that the client shows (its own key, passed through).
    """

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        self.script = script or Script()
        self.scripts: dict[str, Script] = {}
        self.bill = Bill()
        self.origin = ""
        self._port = port
        self._runner: web.AppRunner | None = None
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def calls(self) -> list[Row]:
        """Every call that came in, in order."""
        return self.bill.rows

    def bill_nusd(self, tag: str | None = None) -> int:
        """What was made so far, in nano-dollars; one payer's part if `tag` (its credential) is given."""
        return self.bill.nusd(tag)

    async def quiet(self) -> None:
        """Returns once no call is open; the bill then stands still."""
        await self._quiet.wait()

    async def start(self) -> None:
        """Listens on loopback."""
        app = web.Application(client_max_size=_MOST_BODY)
        for path in _WIRES:
            app.router.add_post(path, self._serve)
        app.router.add_get("/v1/models", _models)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1_024)
        await site.start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Closes every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self._busy += 1
        self._quiet.clear()
        try:
            return await self._answer(request, await request.read())
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        wire = _WIRES[request.path]
        try:
            base = self.scripts.get(_payer(request), self.script)
            script = script_for(base, request.headers.get("x-scripted"))
            prompt: Prompt = wire.read(body)
        except (ValueError, KeyError, TypeError, AttributeError, msgspec.MsgspecError) as error:
            return _json(400, _error(wire, 400, "invalid_request", f"can't be read: {type(error).__name__}"))
        row = self.bill.open(_payer(request), request.path, prompt.model, prompt.stream)
        if script.first_s:
            await asyncio.sleep(script.first_s)
        if script.status != 200:
            return _refuse(wire, script, row)
        said = answer(prompt, script, len(self.bill.rows))
        row.input_tokens, row.cached_tokens = said.input_tokens, said.cached_tokens
        row.tools, row.tools_barred = int(said.tool is not None), prompt.tools_barred
        if not prompt.stream:
            row.output_tokens = said.output_tokens
            row.state = "ended"
            if script.cut_after is not None:
                _drop(request)
            if script.gap_s:
                await asyncio.sleep(script.gap_s)
            return _json(200, wire.whole(said, not script.no_usage))
        return await self._stream(
            request, row, said, script, wire.stream(said, prompt, not script.no_usage, script.chunk_tokens)
        )

    async def _stream(
        self, request: web.Request, row: Row, said: Answer, script: Script, events: Iterator[tuple[bytes, int]]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-request-id": said.id})
        try:
            await response.prepare(request)
            for event, tokens in events:
                row.output_tokens = max(row.output_tokens, tokens)
                if script.cut_after is not None and tokens >= script.cut_after:
                    row.state = "cut"
                    _drop(request)
                    return response
                if script.stall_after is not None and tokens >= script.stall_after:
                    await _until_left(request)
                if _left(request):
                    break
                await response.write(event)
                if script.gap_s:
                    await asyncio.sleep(script.gap_s)
            else:
                await response.write_eof()
        except ConnectionError:
            row.state = "left"
            return response
        row.state = "left" if row.state == "open" and _left(request) else "ended"
        return response


def _payer(request: web.Request) -> str:
    bearer = request.headers.get("authorization", "")
    return bearer.removeprefix("Bearer ") or request.headers.get("x-api-key", "")


def _left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _drop(request: web.Request) -> None:
    """Breaks the connection off, as a crashing provider does."""
    if request.transport is not None:
        request.transport.abort()


async def _until_left(request: web.Request) -> None:
    for _ in range(int(_MOST_STALL_S / 0.02)):
        if _left(request):
            return
        await asyncio.sleep(0.02)


def _refuse(wire: ModuleType, script: Script, row: Row) -> web.Response:
    row.status, row.state = script.status, "refused"
    headers = {} if script.retry_after_s is None else {"retry-after": str(script.retry_after_s)}
    if script.html:
        page = f"<html><body><h1>{script.status} Bad Gateway</h1></body></html>"
        return web.Response(status=script.status, text=page, content_type="text/html", headers=headers)
    return _json(script.status, _error(wire, script.status, "scripted", "the script says so"), headers)


def _error(wire: ModuleType, status: int, code: str, message: str) -> bytes:
    spell: Callable[[int, str, str], bytes] = getattr(wire, "error", wire_chat.error)
    return spell(status, code, message)


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


async def _models(_request: web.Request) -> web.Response:
    names = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5")
    items: list[dict[str, Any]] = [{"id": name, "object": "model", "owned_by": "scripted"} for name in names]
    return web.json_response({"object": "list", "data": items})
