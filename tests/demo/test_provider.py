"""The scripted provider: three wire formats, knobs, and a bill that counts what was made, sent or not."""

import asyncio
import json

import aiohttp
import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
PATHS = (CHAT, MESSAGES, RESPONSES)
MODELS = {CHAT: "gpt-4o-mini", MESSAGES: "claude-sonnet-4-5", RESPONSES: "gpt-4o"}
LIMITS = {CHAT: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}
TOOLS = {
    CHAT: {"type": "function", "function": {"name": "look", "parameters": {}}},
    MESSAGES: {"name": "look", "input_schema": {}},
    RESPONSES: {"type": "function", "name": "look", "parameters": {}},
}


@pytest.fixture
async def provider():
    """A provider on a free port."""
    provider = ScriptedProvider(Script(output_tokens=50))
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def http():
    """A client."""
    async with aiohttp.ClientSession() as session:
        yield session


def asking(path, limit=1000, **more):
    """The smallest request of a format."""
    said = [{"role": "user", "content": "hello"}]
    return {
        "model": MODELS[path],
        "input" if path == RESPONSES else "messages": said,
        **({LIMITS[path]: limit} if limit is not None else {}),
        **more,
    }


def knobs(**named):
    """The header that only this provider reads."""
    return {"authorization": "Bearer sk-me", "x-scripted": json.dumps(named)}


async def ask(http, provider, path, body, **named):
    """One request; its status and text."""
    async with http.post(provider.origin + path, json=body, headers=knobs(**named)) as answer:
        return answer.status, await answer.text()


def told(path, text):
    """(input, output) tokens as the answer tells them, streamed or not; None where it doesn't."""
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")] or [json.loads(text)]
    found: dict[str, int] = {}
    for event in events:
        at = event.get("message") or event.get("response") or event
        found |= {key: value for key, value in (at.get("usage") or {}).items() if isinstance(value, int)}
    asked = found.get("prompt_tokens", found.get("input_tokens"))
    made = found.get("completion_tokens", found.get("output_tokens"))
    return None if asked is None else (asked, made)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_told_usage_is_what_is_billed(provider, http, path, stream):
    """Whole or streamed, in every format, the usage that is told is the row on the bill."""
    options = {"stream_options": {"include_usage": True}} if path == CHAT and stream else {}
    status, text = await ask(http, provider, path, asking(path, stream=stream, **options), reasoning_tokens=7)
    row = provider.calls[0]
    assert (200, "ended", "sk-me") == (status, row.state, row.tag)
    assert (row.input_tokens, 57) == told(path, text)
    assert row.output_tokens == 57
    assert row.nusd == provider.bill_nusd("sk-me") == provider.bill_nusd()
    assert provider.bill_nusd("sk-other") == 0


@pytest.mark.parametrize(("path", "nusd"), [(CHAT, 750_000), (MESSAGES, 18_000_000), (RESPONSES, 12_500_000)])
async def test_prices_are_real_ones(provider, http, path, nusd):
    """1,000 tokens in and 1,000 out cost what the price list says."""
    await ask(http, provider, path, asking(path))
    row = provider.calls[0]
    row.input_tokens = row.output_tokens = 1_000
    row.cached_tokens = 0
    assert row.nusd == nusd
    row.cached_tokens = 1_000
    assert row.nusd < nusd


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_a_limit_is_kept_unless_the_script_says_otherwise(provider, http, path, stream):
    """max_tokens holds, reasoning included; `ignore_limit` writes past it."""
    await ask(http, provider, path, asking(path, limit=20, stream=stream), reasoning_tokens=5)
    await ask(http, provider, path, asking(path, limit=20, stream=stream), ignore_limit=True, output_tokens=300)
    assert [20, 300] == [row.output_tokens for row in provider.calls]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_tools_are_called_until_the_script_is_through(provider, http, path, stream):
    """With tools offered, the first `tool_steps` answers call one, the next one ends."""
    status, text = await ask(http, provider, path, asking(path, tools=[TOOLS[path]], stream=stream), tool_steps=1)
    assert status == 200
    assert '"look"' in text and "call_scripted_1" in text
    results = {
        CHAT: [{"role": "tool", "tool_call_id": "call_scripted_1", "content": "x"}],
        MESSAGES: [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_scripted_1", "content": "x"}]}
        ],
        RESPONSES: [{"type": "function_call_output", "call_id": "call_scripted_1", "output": "x"}],
    }
    body = asking(path, tools=[TOOLS[path]], stream=stream)
    body["input" if path == RESPONSES else "messages"] += results[path]
    _, text = await ask(http, provider, path, body, tool_steps=1)
    assert "call_scripted" not in text
    assert [True, False] == [row.output_tokens > 50 for row in provider.calls]


async def test_a_chat_stream_tells_usage_only_if_asked(provider, http):
    """Without stream_options.include_usage there is no usage chunk (wire-formats.md section 2)."""
    _, text = await ask(http, provider, CHAT, asking(CHAT, stream=True))
    assert told(CHAT, text) is None
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_usage_can_be_withheld(provider, http, path, stream):
    """`no_usage` tells nothing, and bills all the same."""
    options = {"stream_options": {"include_usage": True}} if path == CHAT and stream else {}
    _, text = await ask(http, provider, path, asking(path, stream=stream, **options), no_usage=True)
    assert told(path, text) is None
    assert provider.calls[0].output_tokens == 50


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_that_breaks_off_is_billed_up_to_there(provider, http, path):
    """`cut_after` drops the connection in the middle; what was made by then is on the bill."""
    with pytest.raises(aiohttp.ClientError):
        await ask(http, provider, path, asking(path, stream=True), cut_after=20)
    assert ("cut", 20) == (provider.calls[0].state, provider.calls[0].output_tokens)


async def test_a_client_that_leaves_pays_for_what_was_made(provider, http):
    """A stream that is left stops, and its row keeps the tokens made by then."""
    answer = await http.post(
        provider.origin + CHAT, json=asking(CHAT, stream=True), headers=knobs(stall_after=20, output_tokens=1000)
    )
    async for line in answer.content:
        if b"the meter" in line or b"meter box" in line:
            break
    answer.close()
    async with asyncio.timeout(5):
        await provider.quiet()
    assert ("left", True) == (provider.calls[0].state, 20 <= provider.calls[0].output_tokens <= 24)


@pytest.mark.parametrize("status", [429, 500, 529])
@pytest.mark.parametrize("path", PATHS)
async def test_errors_cost_nothing(provider, http, path, status):
    """A scripted error, as JSON or as a page, bills nothing."""
    assert status == (await ask(http, provider, path, asking(path), status=status, retry_after_s=3))[0]
    _, page = await ask(http, provider, path, asking(path), status=status, html=True)
    assert page.startswith("<html>")
    assert (0, 2) == (provider.bill_nusd(), provider.bill.calls())


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "x"}', b"\xff"])
@pytest.mark.parametrize("path", PATHS)
async def test_garbage_gets_400(provider, http, path, body):
    """What can't be read is refused and not billed."""
    async with http.post(provider.origin + path, data=body) as answer:
        assert answer.status == 400
    assert provider.calls == []


async def test_an_unknown_knob_is_refused(provider, http):
    """A typing error in a script must not look like a passed test."""
    assert (await ask(http, provider, CHAT, asking(CHAT), outptu_tokens=1))[0] == 400


async def test_a_payer_may_have_a_script_of_its_own(provider, http):
    """`scripts` is keyed by the credential that the client shows."""
    provider.scripts["sk-me"] = Script(output_tokens=3)
    await ask(http, provider, CHAT, asking(CHAT))
    assert provider.calls[0].output_tokens == 3


async def test_models_are_listed(provider, http):
    """GET /v1/models works and costs nothing."""
    async with http.get(provider.origin + "/v1/models") as answer:
        assert len((await answer.json())["data"]) == 3
    assert provider.bill_nusd() == 0
