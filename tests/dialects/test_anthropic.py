"""The Anthropic dialect: requests, streams, cuts, and what the official SDK makes of them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest

from gateway.core.errors import Undecodable
from gateway.core.types import Edits, Hosted, Inbound, Labels, Provider, Refusal
from gateway.core.wire.history import fold
from gateway.dialects.anthropic import Anthropic

PROVIDER = Provider("anthropic", "anthropic", "https://x", ("anthropic-messages",))
REFUSAL = Refusal(402, "insufficient_quota", "This run has spent its $1.", run_id="r1", scope="run")
BODY: dict[str, Any] = {"model": "claude-x", "max_tokens": 900, "messages": [{"role": "user", "content": "hi"}]}


def _inbound(body: Any, path: str = "/v1/messages", method: str = "POST") -> Inbound:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Inbound(method, None, path, path, "", (), raw, Labels(), "", None, 0.0)


def _decode(**more):
    return Anthropic().decode(_inbound({**BODY, **more}), PROVIDER)


def _event(kind: str, **more) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


START = _event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "cache_read_input_tokens": 100, "output_tokens": 1, "service_tier": "standard"},
    },
)
TEXT = _event("content_block_start", index=0, content_block={"type": "text", "text": ""}) + _event(
    "content_block_delta", index=0, delta={"type": "text_delta", "text": "Let me "}
)
TOOL = _event(
    "content_block_start", index=1, content_block={"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}
) + _event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"a": 1}'})
CLOSED = _event("content_block_stop", index=0) + _event("content_block_stop", index=1)
DELTA = _event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 30, "input_tokens": None})
STOP = _event("message_stop")


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/messages", "metered"),
        ("POST", "/anthropic/v1/messages", "metered"),
        ("POST", "/v1/messages/count_tokens", "free"),
        ("GET", "/v1/messages/batches/b1", "free"),
        ("POST", "/v1/messages/batches/b1/cancel", "free"),
        ("GET", "/v1/models", "free"),
        ("GET", "/v1/models/claude-x", "free"),
    ],
)
def test_paths_are_known_by_their_end(method, path, kind):
    """R-060: only a message costs money."""
    dialect = Anthropic()
    assert dialect.matches(method, path)
    assert kind == dialect.decode(_inbound(BODY, path, method), PROVIDER).kind


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("POST", "/v1/threads/t/messages"),
        ("POST", "/v1/models"),
        ("POST", "/v1/complete"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/messages/oracle"),
    ],
)
def test_foreign_paths_do_not_match(method, path):
    """An OpenAI assistant's messages are not this dialect's, and a new batch costs what nobody meters: the router
    refuses it (http.md section 2)."""
    assert not Anthropic().matches(method, path)


def test_a_request_is_bounded_by_what_it_says():
    """R-086: limit, thinking, tier, region, cache marks and hosted tools end up in the size."""
    call = _decode(
        thinking={"type": "enabled", "budget_tokens": 800},
        service_tier="auto",
        speed="fast",
        inference_geo="us",
        system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        tools=[{"type": "web_search_20250305", "name": "web_search"}, {"name": "add", "input_schema": {}}],
        stream=True,
    )
    size = call.size
    assert (900, 800, "auto", "fast", "us", "1h") == (
        size.asked_output,
        size.thinking,
        size.tier,
        size.speed,
        size.geo,
        size.cache_write,
    )
    assert ((Hosted("web_search", None, True),), True, ("add",)) == (size.hosted, call.stream, call.tools)
    assert len(json.dumps(BODY)) < size.text_bytes


def test_every_mark_of_a_cache_write_is_found():
    """R-055: on top, in the system prompt, in a tool, in a message."""
    mark = {"cache_control": {"type": "ephemeral"}}
    assert "" == _decode().size.cache_write
    assert "5m" == _decode(**mark).size.cache_write
    assert "5m" == _decode(tools=[{"name": "a", **mark}]).size.cache_write
    assert (
        "5m"
        == _decode(messages=[{"role": "user", "content": [{"type": "text", "text": "x", **mark}]}]).size.cache_write
    )
    assert "1h" == _decode(cache_control={"type": "ephemeral", "ttl": "1h"}).size.cache_write


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b'{"model":"a","model":"b","messages":[]}', b'{"max_tokens":1,"messages":[]}', b'{"model":"a"}',
        b'{"model":"a","messages":{}}', b'{"model":"a","messages":[1]}', b'{"model":"a","messages":[],"max_tokens":-1}',
        b'{"model":"a","messages":[],"max_tokens":NaN}', b'{"model":"a","messages":[],"stream":"yes"}',
        b'{"model":"a","messages":[],"thinking":{"budget_tokens":1,"budget_tokens":2}}',
        b'{"model":"a","messages":[' + b"[" * 80 + b"]" * 80 + b"]}",
    ],
)  # fmt: skip
def test_what_has_no_single_meaning_is_refused(body):
    """R-132: malformed bodies are a 400, never a traceback."""
    with pytest.raises(Undecodable) as refused:
        Anthropic().decode(_inbound(body), PROVIDER)
    assert 400 == refused.value.status


def test_a_stream_is_read_as_it_passes():
    """R-063: the exact input is told at once; the last event waits until the call is settled."""
    reader = Anthropic().reader(_decode(tools=[{"name": "add"}]), False)
    assert START == reader.feed(START)
    assert 107 == reader.input_told
    body = TEXT + TOOL + CLOSED + DELTA
    assert body == reader.feed(body)
    assert b"" == reader.feed(STOP + b"\n")
    assert ('Let me {"a": 1}', 15) == (reader.take(), reader.output_bytes)
    reply = reader.reply()
    assert reply.usage is not None
    assert (107, 30, 100) == (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.cache_read_tokens)
    assert ("claude-x-1", "msg_1", "tool_use", "standard") == (
        reply.model,
        reply.response_id,
        reply.finish_reason,
        reply.tier,
    )
    assert [("toolu_1", "add", True, True)] == [(c.id, c.name, c.known, c.valid) for c in reply.tool_calls]
    assert (True, True) == (reply.ended, reply.usage_complete)
    assert STOP + b"\n" == reader.rest()


def test_a_stream_without_its_end_tells_no_final_usage():
    """R-087: what message_start says of the output is no bill."""
    reader = Anthropic().reader(_decode(), False)
    reader.feed(START + TEXT)
    reply = reader.reply()
    assert (False, False, None) == (reply.ended, reply.usage_complete, reply.finish_reason)


def test_an_answer_is_found_again_in_the_next_request():
    """The hash of an answer as it passed, streamed or whole, is the link that the next request quotes."""
    dialect = Anthropic()
    first = dialect.decode(_inbound(BODY), PROVIDER)
    reader = dialect.reader(first, False)
    reader.feed(START + TEXT + TOOL + CLOSED + DELTA + STOP)
    (link,) = reader.reply().links
    quoted = [
        {"type": "text", "text": "Let me "},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
    ]
    assert (link,) == dialect.whole(first, 200, json.dumps({"content": quoted, "usage": {}}).encode()).links
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "2"}
    later = dialect.decode(
        _inbound(
            {
                **BODY,
                "messages": [
                    *BODY["messages"],
                    {"role": "assistant", "content": quoted},
                    {"role": "user", "content": [result]},
                ],
            }
        ),
        PROVIDER,
    )
    assert (fold(first.lineage.chain[-1], link), (1,), link) == (
        later.lineage.chain[1],
        later.lineage.answers,
        later.lineage.last_answer,
    )
    assert (("toolu_1",), first.lineage.first, 2) == (later.lineage.ids, later.lineage.first, later.results[0].position)


def test_an_error_in_a_stream_ends_it():
    """R-132: an overloaded provider says so in-band; nothing is sent behind it."""
    reader = Anthropic().reader(_decode(), False)
    broken = _event("error", error={"type": "overloaded_error", "message": "busy"})
    assert START == reader.feed(START + broken)
    assert (True, "overloaded_error", False) == (reader.ended, reader.reply().error, reader.reply().usage_complete)
    assert broken == reader.rest()


def test_values_of_an_unexpected_kind_are_passed_and_read_as_far_as_possible():
    """R-132: a wire that changes is metered still."""
    reader = Anthropic().reader(_decode(), False)
    odd = _event("message_delta", index="x", delta={"stop_reason": "end_turn", "text": 7}, usage={"output_tokens": 9})
    body = START + odd + b'data: nonsense\n\ndata: [1]\n\nevent: future\ndata: {"type":"future"}\n\n'
    assert body == reader.feed(body)
    reply = reader.reply()
    assert reply.usage is not None
    assert (9, "end_turn", True) == (reply.usage.output_tokens, reply.finish_reason, reply.usage_complete)


def test_rewrite_changes_only_what_it_must():
    """R-086: the same object where nothing changes; else only the limit and the caps."""
    dialect = Anthropic()
    raw = (
        b'{"model":"claude-x", "max_tokens": 900,\n "messages":[], "tools":[{"type":"web_search_20250305","name":"w"}]}'
    )
    call = dialect.decode(_inbound(raw), PROVIDER)
    assert raw is dialect.rewrite(call, raw, Edits(ask_usage=True))
    assert raw is dialect.rewrite(call, raw, Edits(1000, True))
    expected = raw.replace(b"900", b"300").replace(b'"name":"w"', b'"name":"w","max_uses":5')
    assert expected == dialect.rewrite(call, raw, Edits(300, caps=5))


TOOLS = b'"tools":[{"name":"f","input_schema":{}}]'


@pytest.mark.parametrize(
    ("rest", "out"),
    [
        (TOOLS, TOOLS + b',"tool_choice":{"type":"none"}'),
        (
            b'"tool_choice": {"type":"tool","name":"f","disable_parallel_tool_use":true}, ' + TOOLS,
            b'"tool_choice": {"type":"none"}, ' + TOOLS,
        ),
        (b'"tools":[ ],"tool_choice":{"type":"auto"}', b'"tools":[ ],"tool_choice":{"type":"auto"}'),
        (b'"tools":null', b'"tools":null'),
    ],
)
def test_a_last_call_may_not_use_the_tools_that_it_lists(rest: bytes, out: bytes):
    """`tool_choice` none, also where the client forced one; nothing where no tools are offered."""
    head = b'{"model":"m","max_tokens":9,"messages":[],'
    raw = head + rest + b"}"
    call = Anthropic().decode(_inbound(raw), PROVIDER)
    assert head + out + b"}" == Anthropic().rewrite(call, raw, Edits(last=True))


def test_another_model_is_named_where_the_clients_stood():
    """The rest in its own spelling (http.md section 2)."""
    raw = b'{"max_tokens":9, "model" : "claude-x","messages":[]}'
    call = Anthropic().decode(_inbound(raw), PROVIDER)
    assert raw.replace(b"claude-x", b"claude-y") == Anthropic().rewrite(call, raw, Edits(model="claude-y"))


def test_errors_of_the_provider_are_told_from_a_proxys_page():
    """Only JSON with an error object is the provider's own; garbage gives a Reply without an end."""
    dialect = Anthropic()
    assert dialect.own_error(b'{"type":"error","error":{"type":"api_error","message":"x"}}')
    assert not dialect.own_error(b"<html>502</html>")
    assert not dialect.own_error(b'{"error":"x"}')
    page = dialect.whole(_decode(), 502, b"<html>502</html>")
    assert (False, "http_502") == (page.ended, page.error)


def test_a_stream_under_a_wrong_content_type_is_read():
    """A body that turns out to be a stream is metered all the same."""
    reply = Anthropic().whole(_decode(), 200, START + TEXT + DELTA + STOP)
    assert (True, True, "tool_use") == (reply.ended, reply.usage_complete, reply.finish_reason)


def _sdk(status: int, body: bytes, kind: str) -> anthropic.Anthropic:
    def answer(_request):
        return httpx2.Response(status, headers={"content-type": kind, "x-should-retry": "false"}, content=body)

    return anthropic.Anthropic(api_key="x", http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))


@pytest.mark.parametrize("came", [START + TEXT, START + TEXT + TOOL, START + TEXT + TOOL[:-20]])
def test_the_sdk_raises_on_a_cut_stream(came):
    """R-086: a cut is an APIStatusError that carries type, code and details; never a polite end."""
    reader = Anthropic().reader(_decode(), False)
    passed = reader.feed(came) + reader.cut(REFUSAL)
    assert b"content_block_stop" not in passed
    client = _sdk(200, passed, "text/event-stream")
    with pytest.raises(anthropic.APIStatusError) as raised, client.messages.stream(**BODY) as stream:
        list(stream)
    error = raised.value.body["error"]  # type: ignore[index]
    assert ("billing_error", "insufficient_quota", "r1") == (error["type"], error["code"], error["details"]["run_id"])


def test_an_event_that_was_half_out_is_ended_before_the_error():
    """R-086: else the error would become a part of that event's data."""
    reader = Anthropic().reader(_decode(), False)
    long = _event(
        "content_block_start", index=0, content_block={"type": "web_fetch_tool_result", "content": "x" * 90_000}
    )
    passed = reader.feed(START) + reader.feed(long[:80_000])
    assert len(passed) > 80_000
    cut = reader.cut(REFUSAL)
    assert cut.startswith(b"\n\nevent: error\n")


def test_the_sdk_knows_a_refusal():
    """R-086: 402 is a PaymentRequiredError with the message as it was written."""
    client = _sdk(402, Anthropic().refuse(REFUSAL), "application/json")
    with pytest.raises(anthropic.PaymentRequiredError) as raised:
        client.messages.create(**BODY)
    assert "This run has spent its $1." in str(raised.value)
    assert "billing_error" == raised.value.type
