"""What a real gateway's projection process sends to a real OTLP server, beside what `/api` says of the same runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.core.telemetry import names
from gateway.core.telemetry.spans import ids
from gateway.demo.provider import ScriptedProvider
from tests.e2e.spending import CHAT, MESSAGES, call, chat, messages
from tests.otlp import OtlpServer, plain
from tests.play import Gateway, nusd

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OTHER = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}]


def config(provider: ScriptedProvider, server: OtlpServer, more: str = "") -> str:
    """A provider that bills exactly, one destination."""
    return (
        f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n'
        f'[projections.otlp.destinations.lab]\nendpoint = "{server.url}"\n{more}'
    )


async def came(true: Callable[[], bool], server: OtlpServer, seconds: float = 60) -> None:
    """Waits until what is expected has arrived."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, sorted(span.name for span in server.spans.values())
        await asyncio.sleep(0.05)


async def agent(gateway: Gateway, run: str, steps: int, **heads: Any) -> None:
    """An agent with tools: so many steps, then its last word."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "find it out"}]
    knobs = json.dumps({"tool_steps": steps, "output_tokens": 30, "cached_tokens": 8, "reasoning_tokens": 5})
    for _ in range(steps + 1):
        body = {"model": "gpt-4o-mini", "messages": history, "tools": TOOLS, "max_tokens": 400, "temperature": 0.5}
        answer = await call(gateway, run, body, x_scripted=knobs, **heads)
        assert 200 == answer.status
        message = answer.json()["choices"][0]["message"]
        history.append(message)
        for tool in message.get("tool_calls") or []:
            history.append({"role": "tool", "tool_call_id": tool["id"], "content": "Error: no such page"})


async def test_a_run_arrives_as_the_tree_that_api_tells_of(provider, tmp_path: Path) -> None:
    """R-105, R-099, R-100: one trace, equal calls, tools, tokens and money; the caller's span on top of all."""
    with (
        OtlpServer() as server,
        Gateway(tmp_path, config(provider, server, "[projections.otlp]\nlogs = true\n")) as gateway,
    ):
        heads: dict[str, Any] = {"x_meterbox_agent": "research", "x_meterbox_user": "u1", "x_meterbox_session": "s1"}
        await agent(gateway, "R", 3, traceparent=f"00-{TRACE}-{SPAN}-01", **heads)
        await call(gateway, "R", messages(max_tokens=50), path=MESSAGES, traceparent=f"00-{OTHER}-{SPAN}-01", **heads)
        await asyncio.to_thread(gateway.post, "/api/runs/R/end", {"outcome": "completed"})
        calls = await asyncio.to_thread(gateway.items, "/api/runs/R/calls")
        tools = await asyncio.to_thread(gateway.items, "/api/runs/R/tools")
        run = await asyncio.to_thread(gateway.run, "R")
        await came(lambda: len(server.spans) == len(calls) + len(tools) + 1, server)
    assert {1} == set(server.times.values())
    assert (5, 3, TRACE) == (len(calls), len(tools), run["trace_id"])
    assert {TRACE} == {span.trace_id.hex() for span in server.spans.values()}
    root = server.spans[ids.root_id("R", 1)]
    assert ("invoke_agent research", SPAN) == (root.name, root.parent_span_id.hex())
    for told in calls:
        span = server.spans[ids.call_id(told["call_id"])]
        said = plain(span.attributes)
        assert (nusd(told["cost_usd"]), told["cost_source"], told["step"], "s1", "u1", "research") == (
            said[names.COST_NUSD], said[names.COST_SOURCE], said[names.STEP], said[names.SESSION], said[names.USER],
            said[names.AGENT],
        )  # fmt: skip
        assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (
            said[names.INPUT_TOKENS], said[names.OUTPUT_TOKENS]
        )  # fmt: skip
        foreign = told["dialect"] == "anthropic-messages"
        assert (ids.root_id("R", 1) if foreign else SPAN) == span.parent_span_id.hex()
        assert ([OTHER] if foreign else []) == [link.trace_id.hex() for link in span.links]
    first = server.attributes(ids.call_id(calls[0]["call_id"]))
    assert (0.5, 400, "openai", "chat_completions", ("tool_calls",), 8) == (
        first[names.TEMPERATURE], first[names.MAX_TOKENS], first[names.PROVIDER], first[names.API_TYPE],
        first[names.FINISH_REASONS], first[names.CACHE_READ],
    )  # fmt: skip
    found = [span for span in server.spans.values() if span.name == "execute_tool search"]
    assert {(root.span_id, 2, "tool_error")} == {
        (span.parent_span_id, span.status.code, plain(span.attributes)[names.ERROR_TYPE]) for span in found
    }
    said = plain(root.attributes)
    assert (nusd(run["own_spent_usd"]), 5, 3) == (
        said[names.RUN_NUSD], said[names.RUN_CALLS], said[names.RUN_TOOL_CALLS]
    )  # fmt: skip


async def killed_midway(gateway: Gateway) -> None:
    """A stream whose run is killed after its first words."""
    body = json.dumps(chat(stream=True, max_tokens=6000)).encode()
    slow = json.dumps({"output_tokens": 5000, "chunk_tokens": 10, "gap_s": 0.05})
    heads = [f"POST /scripted{CHAT} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}", "connection: close"]
    heads += ["x-meterbox-run-id: K", "authorization: Bearer K", f"x-scripted: {slow}", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write("\r\n".join(heads).encode() + body)
    await asyncio.wait_for(reader.readuntil(b"data: "), 30)
    await asyncio.to_thread(gateway.post, "/api/runs/K/kill", {"reason": "enough of it"})
    await asyncio.wait_for(reader.read(), 30)
    writer.close()


async def test_refused_cut_and_killed_are_seen_at_once(provider, tmp_path: Path) -> None:
    """A refused call with its limit, a stream that a kill cut, and the killed run's root; as log records, too."""
    with (
        OtlpServer() as server,
        Gateway(tmp_path, config(provider, server, "[projections.otlp]\nlogs = true\n")) as gateway,
    ):
        refused = await call(gateway, "poor", chat(words=2000, max_tokens=500), x_meterbox_limit_usd="0.000001")
        assert 402 == refused.status
        await killed_midway(gateway)
        await came(lambda: len(server.spans) >= 3 and len(server.records) >= 3, server)
        (cut,) = await asyncio.to_thread(gateway.items, "/api/runs/K/calls")
        (denied,) = await asyncio.to_thread(gateway.items, "/api/runs/poor/calls")
    span = server.spans[ids.call_id(denied["call_id"])]
    (event,) = [one for one in span.events if one.name == names.DENIED]
    said = plain(event.attributes)
    assert (2, "budget_exceeded", "insufficient_quota", "run", 1000) == (
        span.status.code, plain(span.attributes)[names.ERROR_TYPE], said[names.CODE], said[names.SCOPE_REFUSED],
        said[names.LIMIT],
    )  # fmt: skip
    span = server.spans[ids.call_id(cut["call_id"])]
    assert ("run_killed", [names.CUT]) == (plain(span.attributes)[names.ERROR_TYPE], [one.name for one in span.events])
    assert plain(span.attributes)[names.FIRST_CHUNK] > 0
    root = server.spans[ids.root_id("K", 1)]
    assert ("killed: enough of it", [names.KILLED]) == (root.status.message, [one.name for one in root.events])
    assert {names.DENIED, names.CUT, names.KILLED} <= {record.event_name for record in server.records}


async def test_an_instrumented_agent_is_counted_once(provider, tmp_path: Path) -> None:
    """Role proxy: what the gateway says of calls is no generation; baggage names the session."""
    role = '[projections.otlp]\nrole = "proxy"\n'
    with OtlpServer() as server, Gateway(tmp_path, config(provider, server, role)) as gateway:
        heads = {"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "session.id=chat-7,other=x"}
        answer = await asyncio.to_thread(gateway.post, "/scripted" + CHAT, chat(max_tokens=20), heads)
        assert 200 == answer.status
        await came(lambda: len(server.spans) == 1, server)
    (span,) = server.spans.values()
    assert (TRACE, SPAN, "POST") == (span.trace_id.hex(), span.parent_span_id.hex(), span.name)
    said = plain(span.attributes)
    assert [] == [name for name in said if not name.startswith(("http.", "meterbox."))]
    assert "chat-7" == said[names.RUN_ID] == said[names.PROXY_SESSION]
