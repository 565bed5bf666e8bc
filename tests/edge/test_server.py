"""gateway/edge/server.py on the runner that serves it, with clients on raw sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from msgspec import structs

from gateway.core.refusal import openai_error
from gateway.core.route import Routes
from gateway.core.secret import Secret
from gateway.core.types import Inbound, Provider, Refusal
from gateway.edge.keys import Keys, KeySpec
from gateway.edge.listener import make_runner
from gateway.edge.server import DataPlane, Front
from gateway.edge.tasks import Tasks
from tests.fakes import FakeClock

JSON = (("content-type", "application/json"),)
VIRTUAL = "mbx_one.0123456789abcdef0123456789abcdef"


class Tongue:
    """A dialect as far as the server knows one."""

    def __init__(self, name: str, *ends: str) -> None:
        self.name, self._ends = name, ends

    def matches(self, method: str, path: str) -> bool:
        return any(path.endswith(end) for end in self._ends)

    def refuse(self, refusal: Refusal) -> bytes:
        said = json.loads(openai_error(refusal))["error"]
        return json.dumps({"dialect": self.name, "error": said}).encode()


CHAT: Any = Tongue("openai-chat", "/chat/completions", "/models")
CLAUDE: Any = Tongue("anthropic-messages", "/messages", "/models")
SECTIONS = {
    "openai": Provider("openai", "openai", "https://a.example", ("openai-chat",)),
    "anthropic": Provider("anthropic", "anthropic", "https://b.example", ("anthropic-messages",)),
    "google": Provider("google", "gemini", "https://c.example", ("gemini",)),
}

Walk = Callable[[Inbound, Provider, Any, Any], Awaitable[None]]


class Walker:
    """A pipeline of one function; remembers what it was given."""

    def __init__(self, work: Walk | None) -> None:
        self.seen: list[tuple[Inbound, Provider, Any]] = []
        self.ended = asyncio.Event()
        self._work = work

    async def walk(self, inbound: Inbound, provider: Provider, dialect: Any, outlet: Any) -> None:
        self.seen.append((inbound, provider, dialect))
        try:
            if self._work is None:
                await outlet.whole(200, JSON, b'{"ok":true}')
            else:
                await self._work(inbound, provider, dialect, outlet)
        finally:
            self.ended.set()


class House:
    """A served data plane."""

    def __init__(self, port: int, plane: DataPlane, walker: Walker, lines: list[tuple[str, dict[str, Any]]]) -> None:
        self.port, self.plane, self.walker, self.lines = port, plane, walker, lines

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        writer.write(data)
        await writer.drain()
        return reader, writer

    async def ask(
        self, target: str = "/v1/chat/completions", body: bytes = b"{}", method: str = "POST", head: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        length = f"content-length: {len(body)}\r\n" if body or method == "POST" else ""
        reader, writer = await self.raw(
            f"{method} {target} HTTP/1.1\r\nhost: x\r\n{head}{length}\r\n".encode("latin-1") + body
        )
        answer = await read_answer(reader)
        writer.close()
        return answer


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = head.split("\r\n")
    named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
    body = b""
    if "content-length" in named:
        body = await reader.readexactly(int(named["content-length"]))
    elif named.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return int(lines[0].split()[1]), named, body


@asynccontextmanager
async def house(work: Walk | None = None, keys: Sequence[KeySpec] = (), **named: Any) -> AsyncIterator[House]:
    lines: list[tuple[str, dict[str, Any]]] = []

    def log(event: str, fields: dict[str, Any]) -> None:
        lines.append((event, fields))

    walker = Walker(work)
    connections, head_s = named.pop("connections", 100), named.pop("head_s", 5.0)
    front = Front(
        walker=walker,
        routes=Routes(SECTIONS, [CHAT, CLAUDE], named.pop("unmetered", "refuse")),
        dialects=[CHAT, CLAUDE],
        keys=Keys(keys, b"p" * 32),
        keys_required=named.pop("keys_required", False),
        tasks=Tasks(log),
        clock=FakeClock(),
        log=log,
        **named,
    )
    plane = DataPlane(front)
    runner = make_runner(plane.handle, log, connections, head_s)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield House(runner.addresses[0][1], plane, walker, lines)
    finally:
        await front.tasks.drain(5)
        await runner.cleanup()


async def until(true: Callable[[], bool]) -> None:
    """What real sockets do has no event to wait for; the test's own timeout bounds this."""
    while not true():  # noqa: ASYNC110  see above
        await asyncio.sleep(0.001)


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


# ------------------------------------------------------------------ a call


async def test_a_request_reaches_the_walk_taken_apart() -> None:
    """Path, query, headers and body in their own spelling; run and section taken off; time from the clock."""
    async with house() as h:
        status, _, body = await h.ask("/run/r1/openai//v1/chat/completions?b=%20", b'{"a": 1}', head="X-One: 1\r\n")
        (inbound, provider, dialect) = h.walker.seen[0]
    assert (200, b'{"ok":true}') == (status, body)
    assert ("openai", "/v1/chat/completions", "b=%20", b'{"a": 1}', "r1") == (
        inbound.section,
        inbound.path,
        inbound.query,
        inbound.body,
        inbound.labels.run_id,
    )
    assert ("openai", "openai-chat", FakeClock().at) == (provider.name, dialect.name, inbound.at)
    assert "1" == inbound.header("x-one")


async def test_tenants_are_told_apart_by_their_own_credentials() -> None:
    """Equal credentials give equal tenants; the credential itself is not in there."""
    async with house() as h:
        for head in ("authorization: Bearer one\r\n", "authorization: Bearer one\r\n", "x-api-key: two\r\n", ""):
            await h.ask(head=head)
        tenants = [inbound.tenant for inbound, _, _ in h.walker.seen]
    assert tenants[0] == tenants[1] and 3 == len(set(tenants)) and "" == tenants[3]
    assert not any("one" in tenant or "two" in tenant for tenant in tenants)


async def test_a_streamed_answer_passes_chunk_by_chunk() -> None:
    """Each chunk arrives before the next is written."""
    arrived = asyncio.Event()

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await outlet.start(200, [("content-type", "text/event-stream")])
        await outlet.write(b"data: 1\n\n")
        await arrived.wait()
        await outlet.write(b"data: 2\n\n")
        await outlet.end()

    async with house(walk) as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await reader.readuntil(b"data: 1\n\n")
        arrived.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"data: 2\n\n\r\n0\r\n\r\n")
        writer.close()


async def test_32_mb_pass_both_ways() -> None:
    """The largest body that is accepted, and one as large back."""
    body = b'{"a":"' + b"x" * ((32 << 20) - 8) + b'"}'

    async def echo(inbound: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await outlet.whole(200, JSON, inbound.body)

    async with house(echo) as h:
        status, _, got = await h.ask(body=body)
        assert (200, True) == (status, got == body)


async def test_a_connection_serves_many_requests_also_pipelined() -> None:
    """Keep-alive, and requests that come in one packet, in their order."""

    async def tell(inbound: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await outlet.whole(200, JSON, inbound.body)

    async with house(tell) as h:
        one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
        reader, writer = await h.raw(one + b"1" + one + b"2" + one + b"3")
        assert [b"1", b"2", b"3"] == [(await read_answer(reader))[2] for _ in range(3)]
        writer.write(one + b"4")
        assert b"4" == (await read_answer(reader))[2]
        writer.close()


@pytest.mark.parametrize("shape", ["small", "1 MB", "9000 chunks", "9000 chunks late", "mixed"])
@pytest.mark.parametrize("cut_bytes", [1 << 20, 4096, 1021])
async def test_no_pipelined_request_is_left_lying(shape: str, cut_bytes: int) -> None:
    """The parser stops at 32 requests, at large bodies and at many chunks; whatever it stopped at, all are answered, in
    order, without another byte from the client."""

    async def tell(inbound: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await outlet.whole(200, JSON, b"%d" % len(inbound.body))

    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    chunked = head + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 9000 + b"0\r\n\r\n"
    large = head + b"content-length: 1048576\r\n\r\n" + bytes(1 << 20)
    small = [head + b"content-length: %d\r\n\r\n" % size + bytes(size) for size in range(150)]
    first, sizes = {
        "small": ([], []),
        "1 MB": ([large], [1 << 20]),
        "9000 chunks": ([chunked], [9000]),
        "9000 chunks late": ([*small[:40], chunked], [*range(40), 9000]),
        "mixed": ([small[3], chunked, large, small[1], large, chunked], [3, 9000, 1 << 20, 1, 1 << 20, 9000]),
    }[shape]
    sent = b"".join(first + small)
    async with house(tell) as h, asyncio.timeout(20):
        reader, writer = await h.raw(b"")

        async def ask() -> None:
            for at in range(0, len(sent), cut_bytes):
                writer.write(sent[at : at + cut_bytes])
                await writer.drain()

        asking = asyncio.ensure_future(ask())
        found = [int((await read_answer(reader))[2]) for _ in range(len(first) + len(small))]
        await asking
        writer.close()
    assert [*sizes, *range(150)] == found


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    """curl sends it with large bodies and waits."""
    async with house() as h:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        reader, writer = await h.raw(head)
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        assert 200 == (await read_answer(reader))[0]
        writer.close()


async def test_a_refused_request_is_not_asked_for_its_body() -> None:
    """Expect: 100-continue on a path that leads nowhere: the refusal comes instead, and the connection ends."""
    async with house() as h:
        reader, writer = await h.raw(
            b"POST /nope HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
        )
        status, named, _ = await read_answer(reader)
        assert (404, "close") == (status, named["connection"])
        writer.close()


# ------------------------------------------------------------------ the client leaves (rule 1)


async def test_a_client_that_leaves_before_the_head_is_told_to_the_walk_which_goes_on() -> None:
    """The handler_cancellation trap: only the handler is cancelled; the walk ends on its own path."""
    left, began, proceed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        outlet.on_gone(left.set)
        began.set()
        try:
            await left.wait()
            await proceed.wait()
            assert outlet.gone
            await outlet.whole(200, JSON, b"nobody reads this")
            ended.append("settled")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with house(walk) as h:
        _, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await began.wait()
        writer.close()
        await asyncio.wait_for(left.wait(), 5)
        assert 1 == h.plane.in_flight
        proceed.set()
        await asyncio.wait_for(h.walker.ended.wait(), 5)
        await h.plane.front.tasks.drain(5)
        assert (["settled"], 0, []) == (ended, h.plane.in_flight, h.lines)


async def test_a_client_that_leaves_in_the_stream_is_told_to_the_walk_which_goes_on() -> None:
    """Writes become no-ops; the walk settles."""
    left, ended = asyncio.Event(), asyncio.Event()

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        outlet.on_gone(left.set)
        await outlet.start(200, [("content-type", "text/event-stream")])
        await outlet.write(b"data: 1\n\n")
        await left.wait()
        for _ in range(100):
            await outlet.write(b"x" * 100_000)
        await outlet.end()
        ended.set()

    async with house(walk) as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await reader.readuntil(b"data: 1\n\n")
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)
    assert [] == h.lines


async def test_a_client_that_leaves_in_its_own_body_starts_no_walk() -> None:
    """Half a body, then a hang-up: nothing was understood, nothing begins."""
    async with house() as h:
        _, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        await until(lambda: h.plane.in_flight == 1)
        writer.close()
        await until(lambda: h.plane.in_flight == 0)
        assert ([], 0) == (h.walker.seen, h.plane.unexpected)


async def test_a_slow_client_holds_the_walk_back() -> None:
    """Back-pressure: a client that doesn't read bounds what is written for it."""
    wrote = 0

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        nonlocal wrote
        await outlet.start(200, [("content-type", "text/event-stream")])
        for _ in range(1000):
            await outlet.write(b"x" * 65536)
            wrote += 65536
        await outlet.end()

    async with house(walk) as h:
        reader, writer = await asyncio.open_connection("127.0.0.1", h.port, limit=1024)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        before = -1
        while wrote != before or not wrote:
            before = wrote
            await asyncio.sleep(0.1)
        assert wrote < 16 << 20
        while await reader.read(1 << 20):
            if wrote == 65536 * 1000:
                break
        assert 65536 * 1000 == wrote
        writer.close()


# ------------------------------------------------------------------ refusals before the walk

REFUSED = {
    "no route": ("/nope/v1/chat/completions", "", 404, "not_found"),
    "root": ("/", "", 404, "not_found"),
    "unmetered": ("/v1/images/generations", "", 403, "unmetered_path"),
    "unmetered in a section": ("/openai/v1/files", "", 403, "unmetered_path"),
    "websocket": ("/v1/responses", "connection: upgrade\r\nupgrade: WebSocket\r\n", 426, "websocket_unsupported"),
    "encoded dots": ("/openai/%2e%2e/v1/chat/completions", "", 400, "invalid_request"),
    "encoded slash": ("/openai/v1%2fchat/completions", "", 400, "invalid_request"),
    "absolute form": ("http://evil.example/v1/chat/completions", "", 400, "invalid_request"),
    "bad run id": ("/run/a%20b/v1/chat/completions", "", 400, "invalid_request"),
    "header not UTF-8": ("/v1/chat/completions", "x-a: \xff\r\n", 400, "invalid_request"),
    "control header twice": (
        "/v1/chat/completions",
        "x-meterbox-agent: a\r\nx-meterbox-agent: b\r\n",
        400,
        "invalid_request",
    ),
    "compressed": ("/v1/chat/completions", "content-encoding: gzip\r\n", 415, "unsupported_encoding"),
    "form": ("/v1/chat/completions", "content-type: multipart/form-data; boundary=x\r\n", 415, "unsupported_encoding"),
}


@pytest.mark.parametrize(("target", "head", "status", "word"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_bad_request_is_refused_once_and_never_walks(target: str, head: str, status: int, word: str) -> None:
    """Status and code of http.md section 3, one attempt, a sentence."""
    async with house() as h:
        got, named, body = await h.ask(target, head=head)
        assert (status, word, "false", []) == (got, code(body), named["x-should-retry"], h.walker.seen)
        assert json.loads(body)["error"]["message"].endswith(".")


async def test_a_refusal_is_spelled_in_the_dialect_of_the_path() -> None:
    """Anthropic's where the path or a header says so, else OpenAI's."""
    async with house() as h:
        spoken = [
            json.loads((await h.ask(target, head="content-encoding: gzip\r\n" + head))[2])["dialect"]
            for target, head in [
                ("/v1/messages", ""),
                ("/v1/chat/completions", ""),
                ("/x/v1/messages/batches", ""),
                ("/nope", "anthropic-version: 1\r\n"),
            ]
        ]
    assert ["anthropic-messages", "openai-chat", "anthropic-messages", "anthropic-messages"] == spoken


async def test_a_near_miss_of_a_section_is_named() -> None:
    """A typing error in the base URL is told as one."""
    async with house() as h:
        _, _, body = await h.ask("/opena1/v1/chat/completions")
    assert "Did you mean /openai/?" in json.loads(body)["error"]["message"]


async def test_identity_is_no_encoding() -> None:
    """`Content-Encoding: identity` says nothing."""
    async with house() as h:
        assert 200 == (await h.ask(head="content-encoding: identity\r\n"))[0]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_refused(chunked: bool) -> None:
    """By its announced length at once, else as soon as it has come that far."""
    async with house(body_bytes=1000) as h:
        if chunked:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            reader, writer = await h.raw(head + b"400\r\n" + b"x" * 1024 + b"\r\n")
        else:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n"
            reader, writer = await h.raw(head)
        status, _, body = await read_answer(reader)
        assert (413, "body_too_large", []) == (status, code(body), h.walker.seen)
        writer.close()


async def test_a_body_that_stops_coming_gets_408() -> None:
    """A body that is announced and not sent doesn't hold its place."""
    async with house(body_s=0.05) as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        status, _, body = await read_answer(reader)
        assert (408, "request_timeout", 0) == (status, code(body), h.plane.in_flight)
        writer.close()


async def test_too_many_calls_in_flight_are_refused_with_a_time_to_retry() -> None:
    """503 `overloaded`, and the ones in flight go on."""
    proceed, began = asyncio.Event(), asyncio.Event()

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        began.set()
        await proceed.wait()
        await outlet.whole(200, JSON, b"{}")

    async with house(walk, in_flight=1) as h:
        first = asyncio.ensure_future(h.ask())
        await began.wait()
        status, named, body = await h.ask()
        assert (503, "overloaded", "1", "true") == (status, code(body), named["retry-after"], named["x-should-retry"])
        proceed.set()
        assert 200 == (await first)[0]


async def test_codex_gets_400_where_it_would_ask_six_times() -> None:
    """The one small table of http.md section 3 holds before the walk too."""
    async with house() as h:
        status, _, body = await h.ask("/v1/images/generations", head="originator: codex_cli_rs\r\n")
    assert (400, "unmetered_path") == (status, code(body))


# ------------------------------------------------------------------ smuggling

SMUGGLED = {
    "both framings": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "length with a sign": b"content-length: +2\r\n\r\n{}",
    "unknown transfer coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"content-length : 2\r\n\r\n{}",
    "bad chunk size": b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "second host": b"host: y\r\ncontent-length: 2\r\n\r\n{}",
    "nul in a header": b"x: a\x00b\r\ncontent-length: 2\r\n\r\n{}",
    "129 headers": b"".join(b"x-%d: 1\r\n" % i for i in range(140)) + b"content-length: 2\r\n\r\n{}",
    "a long header": b"x: " + b"y" * 9000 + b"\r\ncontent-length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("rest", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_an_ambiguous_request_is_refused_and_its_connection_closed(rest: bytes) -> None:
    """Two readings of where a request ends: 400, and nothing after it is read."""
    smuggled = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
    async with house() as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + rest + smuggled)
        try:
            answers = await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            answers = b"HTTP/1.1 400 reset"
        writer.close()
    assert answers[:7] == b"HTTP/1." and answers[8:12] == b" 400"
    assert b"200 OK" not in answers
    assert [] == h.walker.seen


async def test_what_is_malformed_comes_back_neither_in_the_page_nor_in_the_log() -> None:
    """A broken Authorization line holds a secret; aiohttp's own page and log quote it."""
    async with house() as h:
        reader, writer = await h.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer CANARY\x00\r\ncontent-length: 0\r\n\r\n"
        )
        page = await reader.read()
        writer.close()
    assert (b" 400", True) == (page[8:12], b"invalid_request" in page)
    assert "CANARY" not in repr(h.lines) + page.decode()
    assert ["malformed"] == [event for event, _ in h.lines]


async def test_a_head_that_comes_slowly_is_closed() -> None:
    """Slowloris: part of a head, then nothing."""
    async with house(head_s=0.05) as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_slow_head_on_a_used_connection_is_closed_as_well() -> None:
    """The watch begins with the first byte of each head, and ends with its last."""
    async with house(head_s=0.1) as h:
        one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        reader, writer = await h.raw(one[:10])
        writer.write(one[10:])
        assert 200 == (await read_answer(reader))[0]
        await asyncio.sleep(0.2)
        writer.write(one + one[:20])
        assert 200 == (await read_answer(reader))[0]
        writer.write(one[20:30])
        assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_part_of_a_head_that_comes_during_a_call_is_watched_but_never_cuts_the_call() -> None:
    """Its time may run out while the call before it is served: that one ends first, however long it takes."""
    going = asyncio.Event()

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await going.wait()
        await outlet.whole(200, JSON, b"{}")

    async with house(walk, head_s=0.05) as h:
        one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        reader, writer = await h.raw(one)
        await until(lambda: bool(h.walker.seen))
        writer.write(one[:20])
        asyncio.get_running_loop().call_later(0.2, going.set)
        assert 200 == (await asyncio.wait_for(read_answer(reader), 5))[0]
        assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_body_in_pieces_is_no_slow_head() -> None:
    """Nor is what comes after it: the connection goes on, idle for longer than a head may take."""
    async with house(head_s=0.05) as h:
        one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
        reader, writer = await h.raw(one)
        for _ in range(2):
            for piece in (b"{", b" ", b" ", b"}"):
                await asyncio.sleep(0.03)
                writer.write(piece)
            assert 200 == (await asyncio.wait_for(read_answer(reader), 5))[0]
            await asyncio.sleep(0.1)
            writer.write(one)
        writer.close()


async def test_connections_above_the_limit_are_told_so() -> None:
    """The limit counts open connections; a closed one makes room."""
    async with house(connections=1) as h:
        _, first = await h.raw(b"")
        await asyncio.sleep(0.02)
        reader, second = await h.raw(b"")
        page = await reader.read()
        assert (True, True) == (page.startswith(b"HTTP/1.1 503"), b'"overloaded"' in page)
        first.close()
        second.close()
        await asyncio.sleep(0.02)
        assert 200 == (await h.ask())[0]


# ------------------------------------------------------------------ defects of ours


async def test_a_walk_that_raises_gives_500_in_the_callers_dialect() -> None:
    """Never a traceback; counted, and the log names the place."""

    async def walk(_i: Inbound, _p: Provider, _d: Any, _o: Any) -> None:
        raise KeyError("CANARY")

    async with house(walk) as h:
        status, _, body = await h.ask("/v1/messages")
    assert (500, "internal_error", 1) == (status, code(body), h.plane.unexpected)
    assert "anthropic-messages" == json.loads(body)["dialect"] and b"CANARY" not in body
    assert ["task_failed", "unexpected"] == sorted(event for event, _ in h.lines)


async def test_a_walk_that_raises_in_its_stream_never_ends_it_politely() -> None:
    """The client must see that the answer is not whole."""

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await outlet.start(200, JSON)
        await outlet.write(b"{")
        raise KeyError

    async with house(walk) as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        try:
            got = await reader.read()
        except ConnectionError:
            got = b""
        assert not got.endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_walk_that_a_drain_cuts_ends_its_connection_without_a_word() -> None:
    """Its end is told to the handler, which must not take silence for a forgotten answer."""
    began = asyncio.Event()

    async def walk(_i: Inbound, _p: Provider, _d: Any, _o: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    async with house(walk) as h:
        reader, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await began.wait()
        assert 1 == await h.plane.front.tasks.drain(0.01)
        assert b"" == await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert (0, 0) == (h.plane.in_flight, h.plane.unexpected)


async def test_a_walk_that_answers_nothing_gives_500() -> None:
    """A forgotten answer is a defect, not a hang."""

    async def walk(_i: Inbound, _p: Provider, _d: Any, _o: Any) -> None:
        return None

    async with house(walk) as h:
        assert 500 == (await h.ask())[0]


async def test_the_control_plane_answers_its_own_paths_only() -> None:
    """Where it shares the port; a defect there is shielded too."""

    async def control(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith("/api/defect"):
            raise KeyError("CANARY")
        return web.Response(text=f"control {request.raw_path}")

    async with house(control=control) as h:
        for target in ("/api/runs?x=1", "/livez", "/readyz", "/metrics"):
            assert f"control {target}".encode() == (await h.ask(target, b"", "GET"))[2]
        assert 404 == (await h.ask("/apis", b"", "GET"))[0]
        assert 500 == (await h.ask("/api/defect", b"", "GET"))[0]
    async with house() as h:
        assert 404 == (await h.ask("/api/runs", b"", "GET"))[0]


# ------------------------------------------------------------------ virtual keys

ONE = KeySpec("one", secret=Secret(VIRTUAL), agent="bot", in_flight=1)


@pytest.mark.parametrize(
    ("target", "head", "left"),
    [
        ("/v1/chat/completions", f"authorization: Bearer {VIRTUAL}\r\n", []),
        ("/v1/chat/completions", f"x-api-key: {VIRTUAL}\r\n", []),
        ("/v1/chat/completions", f"x-meterbox-key: {VIRTUAL}\r\nauthorization: Bearer own\r\n", ["Bearer own"]),
        (f"/key/{VIRTUAL}/v1/chat/completions", "authorization: Bearer own\r\n", ["Bearer own"]),
        (f"/run/r1/key/{VIRTUAL}/openai/v1/chat/completions", "", []),
    ],
)
async def test_a_virtual_key_is_accepted_in_each_of_its_places_and_taken_off(
    target: str, head: str, left: list
) -> None:
    """It never goes on to a provider; the client's own credential does, where it has one."""
    async with house(keys=[ONE], keys_required=True) as h:
        status, _, _ = await h.ask(target, head=head)
        (inbound, _, _) = h.walker.seen[0]
    assert (200, "one", "one") == (status, inbound.tenant, inbound.key and inbound.key.name)
    assert left == [value for name, value in inbound.headers if name in ("authorization", "x-api-key")]
    assert VIRTUAL not in f"{inbound.headers} {inbound.path} {inbound.query}"


@pytest.mark.parametrize("head", ["", "authorization: Bearer sk-own\r\n", "x-meterbox-key: mbx_one.wrong\r\n"])
async def test_without_a_valid_virtual_key_nothing_goes(head: str) -> None:
    """401 `invalid_key`, one attempt, also for a path that leads nowhere: the plane is closed by default."""
    async with house(keys=[ONE], keys_required=True) as h:
        for target in ("/v1/chat/completions", "/nope"):
            status, named, body = await h.ask(target, head=head)
            assert (401, "invalid_key", "false") == (status, code(body), named["x-should-retry"])
        assert [] == h.walker.seen


async def test_where_keys_are_optional_a_shown_one_must_still_be_right() -> None:
    """In its own header it is meant; in the usual one it may be the client's own credential."""
    async with house(keys=[ONE]) as h:
        assert 401 == (await h.ask(head="x-meterbox-key: wrong-key\r\n"))[0]
        assert 200 == (await h.ask(head="authorization: Bearer sk-own\r\n"))[0]
        assert 200 == (await h.ask(head=f"authorization: Bearer {VIRTUAL}\r\n"))[0]
        kept = [(inbound.tenant, inbound.header("authorization")) for inbound, _, _ in h.walker.seen]
    assert ("Bearer sk-own", ("one", None)) == (kept[0][1], kept[1])


async def test_a_call_above_a_keys_limit_waits_and_then_gets_429() -> None:
    """in_flight = 1: the second call waits for the first; a third that waits too long is refused."""
    proceed = asyncio.Event()

    async def walk(_i: Inbound, _p: Provider, _d: Any, outlet: Any) -> None:
        await proceed.wait()
        await outlet.whole(200, JSON, b"{}")

    head = f"x-meterbox-key: {VIRTUAL}\r\n"
    async with house(walk, keys=[ONE], keys_required=True, place_wait_s=0.05) as h:
        first = asyncio.ensure_future(h.ask(head=head))
        await until(lambda: len(h.walker.seen) == 1)
        status, named, body = await h.ask(head=head)
        assert (429, "rate_limited", "1") == (status, code(body), named["retry-after"])
        second = asyncio.ensure_future(h.ask(head=head))
        await until(lambda: h.plane.in_flight == 2)
        proceed.set()
        assert [200, 200] == [(await first)[0], (await second)[0]]
        assert 0 == h.plane.in_flight


async def test_geminis_key_moves_from_the_query_into_a_header() -> None:
    """The one change to a query; elsewhere `key` is the client's own parameter."""
    async with house(unmetered="allow") as h:
        await h.ask("/google/v1beta/models/m:generateContent?alt=sse&key=AI%7Ax")
        await h.ask("/openai/v1/files?key=mine")
        first, second = (inbound for inbound, _, _ in h.walker.seen)
    assert ("alt=sse", "AIzx") == (first.query, first.header("x-goog-api-key"))
    assert ("key=mine", None) == (second.query, second.header("x-goog-api-key"))


async def test_a_call_is_served_by_the_configuration_that_let_it_in() -> None:
    """Another front takes over while a body still comes: provider and walker are of one configuration."""
    async with house() as h:
        _, writer = await h.raw(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{")
        await until(lambda: h.plane.in_flight == 1)
        later = Walker(None)
        h.plane.front = structs.replace(h.plane.front, walker=later)
        writer.write(b"}")
        await asyncio.wait_for(h.walker.ended.wait(), 5)
        writer.close()
        assert 200 == (await h.ask())[0]
        assert (1, 1) == (len(h.walker.seen), len(later.seen))
