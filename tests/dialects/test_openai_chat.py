"""Chat requests are understood as far as we act on them, and changed no further."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Undecodable
from gateway.core.types import Call, Edits, Inbound, Labels, Provider, Quirks, Refusal
from gateway.core.wire.history import fold
from gateway.dialects.openai_chat import OpenAIChat

OPENAI = Provider(
    "openai", "openai", "https://x", ("openai-chat",), quirks=Quirks(usage_option=True, openai_tokenizer=True)
)
OTHER = Provider("t", "together", "https://x", ("openai-chat",))
PATH = "/v1/chat/completions"


def inbound(body: bytes, path: str = PATH, method: str = "POST") -> Inbound:
    """A request."""
    return Inbound(method, None, path, path, "", (), body, Labels(), "t", None, 0.0)


def decode(dialect: OpenAIChat | None = None, provider: Provider = OPENAI, **fields: object) -> Call:
    """The call that these fields make."""
    body = json.dumps({"model": "gpt-4o", "messages": [], **fields}, ensure_ascii=False, separators=(",", ":")).encode()
    return (dialect or OpenAIChat()).decode(inbound(body), provider)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", PATH, "metered"),
        ("POST", "/openai/deployments/d/chat/completions", "metered"),
        ("POST", "/chat/completions", "metered"),
        ("POST", "/v1/chat", "metered"),
        ("GET", "/v1/models", "free"),
        ("GET", "/v1/models/org/name", "free"),
        ("GET", PATH, "free"),
        ("GET", "/v1/chat/completions/c1", "free"),
        ("GET", "/v1/chat/completions/c1/messages", "free"),
        ("DELETE", "/v1/chat/completions/c1", "free"),
        ("POST", "/v1/chat/completions/c1", "free"),
    ],
)
def test_paths_are_matched_by_their_end(method, path, kind):
    """What is billable, and what belongs to it and costs nothing (http.md section 2)."""
    dialect = OpenAIChat()
    assert dialect.matches(method, path)
    assert kind == dialect.decode(inbound(b'{"model":"m","messages":[]}', path, method), OPENAI).kind


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/chat"),
        ("POST", "/api/chat"),
        ("POST", "/v1/completions"),
        ("DELETE", "/v1/models/m"),
        ("POST", "/v1/chatx"),
    ],
)
def test_other_paths_are_not_ours(method, path):
    """Another provider's bare /chat isn't this format, and deleting a model isn't listing one."""
    assert not OpenAIChat().matches(method, path)


def test_a_request_is_understood():
    """The fields that decide what it may cost."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    call = decode(
        stream=True, stream_options={"include_usage": True}, tools=tools, functions=[{"name": "g"}], n=3,
        max_tokens=100, max_completion_tokens=50, service_tier="flex", prediction={"content": "x"},
    )  # fmt: skip
    size = call.size
    assert ("gpt-4o", True, True, ("f", "g")) == (call.model, call.stream, call.usage_asked, call.tools)
    assert (50, 3, "flex", 15, True) == (size.asked_output, size.choices, size.tier, size.prediction_bytes, size.tools)
    assert None is decode().size.asked_output


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"max_completion_tokens": True},
        {"max_tokens": 10**30},
        {"n": 0},
        {"stream": "yes"},
        {"stream_options": 5},
        {"messages": {}},
        {"messages": ["x"]},
        {"tools": {}},
        {"model": "a b"},
        {"service_tier": 5},
    ],
)
def test_bad_values_are_refused(fields):
    """Each names the field; none of them is guessed (ledger.md section 13.7)."""
    with pytest.raises(Undecodable) as caught:
        decode(**fields)
    assert 400 == caught.value.status
    assert f"`{next(iter(fields))}`" in str(caught.value)


def test_repeated_keys_are_refused_where_we_act():
    """At the top, in a message, in a tool call (security.md section 2)."""
    for body in (
        b'{"model":"m","max_tokens":1,"messages":[],"max_tokens":9}',
        b'{"model":"m","messages":[{"role":"user","role":"tool"}]}',
        b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","id":"b"}]}]}',
    ):
        with pytest.raises(Undecodable, match="repeats a key"):
            OpenAIChat().decode(inbound(body), OPENAI)


def test_a_body_nests_64_levels_and_no_more():
    """The object, the array and the message are three of them."""

    def body(levels: int) -> bytes:
        return b'{"model":"m","messages":[{"content":' + b"[" * (levels - 3) + b"]" * (levels - 3) + b"}]}"

    OpenAIChat().decode(inbound(body(64)), OPENAI)
    with pytest.raises(Undecodable, match="deeper"):
        OpenAIChat().decode(inbound(body(65)), OPENAI)


def test_the_next_request_continues_the_chain():
    """The answer's link, folded on the chain of its request, is where the next request's chain passes through."""
    dialect = OpenAIChat()
    first = decode(dialect, messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}])
    tool = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chunk = {
        "choices": [{"index": 0, "delta": {"content": " Hello ", "tool_calls": [tool]}, "finish_reason": "tool_calls"}]
    }
    reader = dialect.reader(first, False)
    reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "Hello"}],
        "refusal": None,
        "tool_calls": [tool],
    }
    second = decode(
        dialect,
        messages=[
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
            message,
            {"role": "tool", "tool_call_id": "call_1", "content": "Error: no"},
        ],
    )
    (link,) = reader.reply().links
    line = second.lineage
    assert ((2,), fold(first.lineage.chain[-1], link)) == (line.answers, line.chain[2])
    assert (link, ("call_1",), first.lineage.first) == (line.last_answer, line.ids, line.first)
    assert [("call_1", True, 3)] == [(one.tool_call_id, one.is_error, one.position) for one in second.results]


def test_only_a_uuid_names_a_session():
    """Many programs send a constant as prompt_cache_key (design.md section 3)."""
    key = "0b5d3f0e-6f0d-4c53-9d55-6d6a1a3c9e11"
    assert key == decode(prompt_cache_key=key).lineage.body_session
    assert None is decode(prompt_cache_key="my-app").lineage.body_session


def test_bytes_bound_the_text():
    """Media are taken out; what NFKC may add comes in where the tokenizer isn't OpenAI's (ledger.md section 5)."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900}}
    call = decode(messages=[{"role": "user", "content": [image]}])
    assert (1, len(call.edits.fields.body) - 900) == (call.size.images, call.size.text_bytes)
    for provider, more in ((OPENAI, 0), (OTHER, 30)):
        call = decode(provider=provider, messages=[{"role": "user", "content": "\ufdfa"}])
        assert len(call.edits.fields.body) + more == call.size.text_bytes


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"web_search_options": {}}, ["web_search"]),
        ({"tools": [{"type": "browser_search"}]}, ["browser_search"]),
        ({"plugins": [{"id": "web"}]}, ["web_search"]),
        ({"model": "openai/gpt-4o:online"}, ["web_search"]),
        ({"model": "gpt-4o-search-preview"}, ["web_search"]),
        ({"model": "sonar-pro"}, ["web_search"]),
        ({"model": "groq/compound"}, ["compound"]),
        ({}, []),
    ],
)
def test_what_the_provider_runs_is_hosted(fields, kinds):
    """No chat field caps it, so it is unbounded (ledger.md section 5)."""
    assert [(kind, False) for kind in kinds] == [(tool.kind, tool.cappable) for tool in decode(**fields).size.hosted]


def test_input_that_is_not_in_the_request_is_unseen():
    """Azure's own data, files by id; audio in or out is other media."""
    assert decode(data_sources=[{}]).size.unseen
    assert decode(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]).size.unseen
    assert decode(modalities=["text", "audio"]).size.other_media
    assert not decode().size.unseen


def test_thinking_budgets_are_lowered_with_the_limit():
    """Both places where a chat request may hold one."""
    call = decode(thinking={"type": "enabled", "budget_tokens": 4000}, max_tokens=8000)
    out = OpenAIChat().rewrite(call, call.edits.fields.body, Edits(2000))
    assert 4000 == call.size.thinking
    assert (2000, 1999) == (json.loads(out)["max_tokens"], json.loads(out)["thinking"]["budget_tokens"])


def test_digests_are_bounded():
    """The dialect's memory doesn't grow with what passes."""
    dialect = OpenAIChat(most=4)
    for number in range(20):
        decode(dialect, messages=[{"role": "user", "content": str(number)}])
    assert 4 == len(dialect._messages._memo)


def test_refusals_are_openais():
    """The shape that its SDKs raise; the provider's own errors are told from pages."""
    dialect = OpenAIChat()
    assert "insufficient_quota" == json.loads(dialect.refuse(Refusal(402, "insufficient_quota", "m")))["error"]["code"]
    assert dialect.own_error(b'{"error":{}}') and not dialect.own_error(b"<html>")
    assert "x" == dialect.whole(decode(), 200, b'{"model":"x"}').model
