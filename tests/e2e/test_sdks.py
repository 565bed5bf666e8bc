"""The real SDKs, unmodified, base URL only: tool loops finish, a refusal costs one attempt, their calls are one run.

(R-066, R-002, R-003; wire-formats.md section 7.) The provider is scripted and counts what reaches it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.play import Gateway

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

MODEL = "gpt-4o-mini"
CLAUDE = "claude-sonnet-5"
PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}, "required": []}
CHAT_TOOL = {"type": "function", "function": {"name": "look_up", "description": "d", "parameters": PARAMETERS}}
RESPONSES_TOOL = {"type": "function", "name": "look_up", "description": "d", "parameters": PARAMETERS}
CLAUDE_TOOL = {"name": "look_up", "description": "d", "input_schema": PARAMETERS}


@pytest.fixture(autouse=True)
def _swept() -> Iterator[None]:
    """Frameworks keep HTTP clients of their own that nobody can close; what they leave must not blame a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """Asks for a tool twice, then finishes."""
    started = ScriptedProvider(Script(output_tokens=20, tool_steps=2))
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
def gateway(tmp_path: Path, provider: ScriptedProvider) -> Iterator[Gateway]:
    """A gateway whose default provider is the scripted one."""
    started = Gateway(tmp_path, f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n')
    started.start()
    yield started
    started.stop()


def one_run(gateway: Gateway, calls: int) -> dict[str, Any]:
    """All calls so far are of one run that nobody named."""
    runs = gateway.items("/api/runs")
    assert 1 == len(runs), [(run["run_id"], run["calls"]) for run in runs]
    assert (calls, "inferred") == (runs[0]["calls"], runs[0]["source"])
    return runs[0]


async def test_openai_chat_finishes_a_tool_loop(gateway: Gateway, provider: ScriptedProvider) -> None:
    """openai's chat client, plain: three calls, one run, two tool spans."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-x") as client:
        messages: list[Any] = [{"role": "user", "content": "find it"}]
        for _ in range(5):
            answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_TOOL])
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                messages.append({"role": "tool", "tool_call_id": call.id, "content": "found"})
    run = await asyncio.to_thread(one_run, gateway, 3)
    tools = await asyncio.to_thread(gateway.items, f"/api/runs/{run['run_id']}/tools")
    assert ["look_up", "look_up"] == [tool["name"] for tool in tools]
    assert all(tool["ended_at"] for tool in tools)


async def test_openai_chat_streams_a_tool_loop(gateway: Gateway, provider: ScriptedProvider) -> None:
    """The same loop streamed: the usage chunk that only the gateway asked for stays hidden, and the cost is exact."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-x") as client:
        messages: list[Any] = [{"role": "user", "content": "find it"}]
        for _ in range(5):
            text = ""
            calls: dict[int, dict[str, str]] = {}
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, tools=[CHAT_TOOL], stream=True
            )
            async for chunk in stream:
                assert chunk.choices, "a chunk without choices is one that the client didn't ask for"
                delta = chunk.choices[0].delta
                text += delta.content or ""
                for piece in delta.tool_calls or []:
                    have = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                    have["id"] += piece.id or ""
                    have["name"] += piece.function.name or ""
                    have["arguments"] += piece.function.arguments or ""
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if not calls:
                break
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in calls.values()
            ]
            messages.append(message)
            messages += [{"role": "tool", "tool_call_id": c["id"], "content": "found"} for c in calls.values()]
    run = await asyncio.to_thread(one_run, gateway, 3)
    listed = await asyncio.to_thread(gateway.items, f"/api/runs/{run['run_id']}/calls")
    assert ["price_list"] * 3 == [call["cost_source"] for call in listed]
    assert provider.bill_nusd() == round(float(run["spent_usd"]) * 1e9)


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_responses_finishes_a_tool_loop(
    gateway: Gateway, provider: ScriptedProvider, stream: bool
) -> None:
    """openai's Responses client, whole and streamed."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-x") as client:
        items: list[Any] = [{"role": "user", "content": "find it"}]
        for _ in range(5):
            named: dict[str, Any] = {"model": MODEL, "input": items, "tools": [RESPONSES_TOOL]}
            if stream:
                async with client.responses.stream(**named) as events:
                    answer = await events.get_final_response()
            else:
                answer = await client.responses.create(**named)
            items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in answer.output]
            calls = [item for item in answer.output if item.type == "function_call"]
            if not calls:
                break
            items += [{"type": "function_call_output", "call_id": c.call_id, "output": "found"} for c in calls]
    await asyncio.to_thread(one_run, gateway, 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_finishes_a_tool_loop(gateway: Gateway, provider: ScriptedProvider, stream: bool) -> None:
    """anthropic's client, whole and streamed."""
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="sk-x") as client:
        messages: list[Any] = [{"role": "user", "content": "find it"}]
        for _ in range(5):
            named: dict[str, Any] = {"model": CLAUDE, "messages": messages, "max_tokens": 500, "tools": [CLAUDE_TOOL]}
            if stream:
                async with client.messages.stream(**named) as events:
                    answer = await events.get_final_message()
            else:
                answer = await client.messages.create(**named)
            messages.append({"role": "assistant", "content": [part.model_dump() for part in answer.content]})
            calls = [part for part in answer.content if part.type == "tool_use"]
            if not calls:
                break
            results = [{"type": "tool_result", "tool_use_id": call.id, "content": "found"} for call in calls]
            messages.append({"role": "user", "content": results})
    await asyncio.to_thread(one_run, gateway, 3)


async def test_openai_agents_finish_a_tool_loop(gateway: Gateway, provider: ScriptedProvider) -> None:
    """The openai-agents framework, by its client's base URL alone."""
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-x")

    def look_up(step: int = 0, about: str = "") -> str:
        """Looks something up."""
        return "found"

    model = agents.OpenAIResponsesModel(model=MODEL, openai_client=client)
    agent = agents.Agent(name="a", instructions="find it", tools=[agents.function_tool(look_up)], model=model)
    result = await agents.Runner.run(agent, "find it")
    assert result.final_output
    await client.close()
    await asyncio.to_thread(one_run, gateway, 3)


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
async def test_pydantic_ai_finishes_a_tool_loop(gateway: Gateway, provider: ScriptedProvider, wire: str) -> None:
    """pydantic-ai over both wires."""
    pydantic_ai = pytest.importorskip("pydantic_ai")
    model: Any
    client: Any
    if wire == "openai":
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-x")
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
    else:
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        client = anthropic.AsyncAnthropic(base_url=gateway.url, api_key="sk-x")
        model = AnthropicModel(CLAUDE, provider=AnthropicProvider(anthropic_client=client))
    agent = pydantic_ai.Agent(model)

    @agent.tool_plain
    def look_up(step: int = 0, about: str = "") -> str:
        """Looks something up."""
        return "found"

    async with client:  # a loop ends with no connection open
        result = await agent.run("find it")
    assert result.output
    await asyncio.to_thread(one_run, gateway, 3)


async def ask(gateway: Gateway, wire: str, headers: dict[str, str]) -> None:
    """One call by the SDK of a wire, with its own retries on."""
    if wire == "anthropic":
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="x", default_headers=headers) as claude:
            await claude.messages.create(model=CLAUDE, max_tokens=100, messages=[{"role": "user", "content": "x"}])
        return
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", default_headers=headers) as client:
        if wire == "chat":
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
        else:
            await client.responses.create(model=MODEL, input="x")


@pytest.mark.parametrize("wire", ["chat", "responses", "anthropic"])
async def test_a_refusal_costs_one_attempt(gateway: Gateway, provider: ScriptedProvider, wire: str) -> None:
    """A budget refusal is read by the SDK as what it is, after exactly one request (R-086)."""
    headers = {"x-meterbox-limit-usd": "0.00000001", "x-meterbox-run-id": "r"}
    failure: Any = anthropic.APIStatusError if wire == "anthropic" else openai.APIStatusError
    with pytest.raises(failure) as told:
        await ask(gateway, wire, headers)
    assert 402 == told.value.status_code
    assert "Don't retry" in json.dumps(told.value.body, ensure_ascii=False)
    listed = await asyncio.to_thread(gateway.items, "/api/runs/r/calls")
    assert ["refused"] == [call["outcome"] for call in listed]
    assert [] == provider.calls


# One agent for each unit, each limited in nothing else; a call costs ten times as much at the price of Claude.
UNITS = ("usd", "tokens", "calls", "tool_calls", "seconds")
ONES = {"tokens": 2500, "calls": 2, "tool_calls": 2, "seconds": 3}
DOLLARS = {"chat": "0.001", "responses": "0.001", "anthropic": "0.01"}


async def ask_for_tools(client: Any, wire: str, stream: bool) -> None:
    """One call that offers a tool, whole or streamed; read to its end."""
    named: dict[str, Any] = {"model": CLAUDE if wire == "anthropic" else MODEL, "stream": stream}
    said = [{"role": "user", "content": "find it"}]
    if wire == "anthropic":
        answer = await client.messages.create(**named, messages=said, tools=[CLAUDE_TOOL], max_tokens=60)
    elif wire == "chat":
        answer = await client.chat.completions.create(**named, messages=said, tools=[CHAT_TOOL])
    else:
        answer = await client.responses.create(**named, input=said, tools=[RESPONSES_TOOL])
    if stream:
        async for _ in answer:
            pass


async def until_refused(gateway: Gateway, wire: str, unit: str, stream: bool) -> tuple[int, Any]:
    """Calls of the SDK as it comes, with its own retries; how many it made, and what it raised at last."""
    sdk: Any = anthropic.AsyncAnthropic if wire == "anthropic" else openai.AsyncOpenAI
    failure: Any = anthropic.APIStatusError if wire == "anthropic" else openai.APIStatusError
    base = gateway.url if wire == "anthropic" else f"{gateway.url}/v1"
    headers = {"x-meterbox-run-id": unit, "x-meterbox-agent": unit}
    async with sdk(base_url=base, api_key="sk-x", default_headers=headers) as client:
        assert client.max_retries > 0
        for served in range(60):
            try:
                await ask_for_tools(client, wire, stream)
            except failure as told:
                return served, told
    raise AssertionError("nobody stopped it")


@pytest.mark.parametrize(
    ("wire", "stream"), [("chat", False), ("chat", True), ("responses", False), ("anthropic", False)]
)
async def test_a_refusal_in_each_unit_costs_one_attempt(
    tmp_path: Path, provider: ScriptedProvider, wire: str, stream: bool
) -> None:
    """Dollars, tokens, calls, tool calls, seconds: of all that the gateway was asked, one call was refused (R-086)."""
    provider.script = Script(output_tokens=20, tool_steps=-1)
    section = f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n'
    budgets = [
        f'[[budgets]]\nname = "{unit}"\nscope = "agent:{unit}"\nper = "month"\n{unit} = {limit}\n'
        for unit, limit in {**ONES, "usd": DOLLARS[wire]}.items()
    ]
    with Gateway(tmp_path, section + "".join(budgets)) as gateway:
        for number, unit in enumerate(UNITS, 1):
            before = len(provider.calls)
            served, told = await until_refused(gateway, wire, unit, stream)
            error = told.body["error"] if wire == "anthropic" else told.body
            assert 402 == told.status_code
            assert ("insufficient_quota" if unit == "usd" else f"limit_{unit}") == error["code"]
            assert (f"agent:{unit}", unit) == (error["details"]["scope"], error["details"]["unit"])
            # three witnesses: the gateway's journal, its log, and who is asked behind it
            listed = await asyncio.to_thread(gateway.items, f"/api/runs/{unit}/calls")
            assert ["ok"] * served + ["refused"] == sorted(call["outcome"] for call in listed)
            assert number == len(await asyncio.to_thread(gateway.says, "refused", number))
            assert 0 < served == len(provider.calls) - before


@pytest.mark.parametrize("framework", ["agents", "pydantic_ai"])
async def test_a_frameworks_refusal_costs_one_attempt(
    gateway: Gateway, provider: ScriptedProvider, framework: str
) -> None:
    """openai-agents and pydantic-ai ask once, too."""
    module = pytest.importorskip(framework)
    headers = {"x-meterbox-limit-usd": "0.00000001", "x-meterbox-run-id": "r"}
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", default_headers=headers) as client:
        with pytest.raises(Exception, match="402"):
            await by_framework(module, client)
    listed = await asyncio.to_thread(gateway.items, "/api/runs/r/calls")
    assert ["refused"] == [call["outcome"] for call in listed]
    assert [] == provider.calls


async def by_framework(module: Any, client: Any) -> None:
    """One task of an agent over this client."""
    if hasattr(module, "Runner"):
        module.set_tracing_disabled(True)
        agent = module.Agent(name="a", model=module.OpenAIResponsesModel(model=MODEL, openai_client=client))
        await module.Runner.run(agent, "x")
        return
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    await module.Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))).run("x")
