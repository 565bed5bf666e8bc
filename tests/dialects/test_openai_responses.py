"""The Responses dialect: requests, streams, cuts, and what the official SDK makes of them."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import ResponseFailedEvent

from gateway.core.errors import Undecodable
from gateway.core.types import Edits, Hosted, Inbound, Labels, Provider, Refusal
from gateway.core.wire.flow import MAX_HELD_BYTES
from gateway.core.wire.history import fold
from gateway.dialects.openai_responses import OpenAIResponses

PROVIDER = Provider("openai", "openai", "https://x", ("openai-responses",))
REFUSAL = Refusal(402, "insufficient_quota", "This run has spent its $1.", run_id="r1", scope="run")
BODY: dict[str, Any] = {"model": "gpt-x", "input": "hi"}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
}
EMPTY = {**MESSAGE, "content": [{"type": "output_text", "text": "", "annotations": []}]}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "add",
    "arguments": '{"a":1}',
    "status": "completed",
}
USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 14,
}


def _inbound(body: Any, path: str = "/v1/responses", method: str = "POST", query: str = "") -> Inbound:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Inbound(method, None, path, path, query, (), raw, Labels(), "", None, 0.0)


def _decode(**more):
    return OpenAIResponses().decode(_inbound({**BODY, **more}), PROVIDER)


def _event(kind: str, number: int, named: bool = True, **more) -> bytes:
    head = f"event: {kind}\n" if named else ""
    return f"{head}data: {json.dumps({'type': kind, 'sequence_number': number, **more})}\n\n".encode()


def _response(status: str, **more) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 5,
        "model": "gpt-x-1",
        "status": status,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
        **more,
    }


def _stream(named: bool = True) -> list[bytes]:
    last = _response("completed", output=[MESSAGE, CALL], usage=USAGE, service_tier="default")
    return [
        _event("response.created", 0, named, response=_response("in_progress")),
        _event("response.output_item.added", 1, named, output_index=0, item=EMPTY),
        _event(
            "response.output_text.delta",
            2,
            named,
            output_index=0,
            content_index=0,
            item_id="msg_1",
            delta="Let me see.",
        ),
        _event("response.output_item.done", 3, named, output_index=0, item=MESSAGE),
        _event("response.output_item.added", 4, named, output_index=1, item={**CALL, "arguments": ""}),
        _event("response.function_call_arguments.delta", 5, named, output_index=1, item_id="fc_1", delta='{"a":1}'),
        _event("response.output_item.done", 6, named, output_index=1, item=CALL),
        _event("response.completed", 7, named, response=last),
    ]


@pytest.mark.parametrize(
    ("method", "path", "kind", "operation"),
    [
        ("POST", "/v1/responses", "metered", "chat"),
        ("POST", "/openai/v1/responses", "metered", "chat"),
        ("POST", "/v1/responses/compact", "metered", "compact"),
        ("POST", "/v1/responses/input_tokens", "free", "count"),
        ("GET", "/v1/responses/resp_1", "retrieve", "retrieve"),
        ("POST", "/v1/responses/resp_1/cancel", "retrieve", "retrieve"),
        ("DELETE", "/v1/responses/resp_1", "free", "other"),
        ("GET", "/v1/responses/resp_1/input_items", "free", "list"),
    ],
)
def test_paths_are_known_by_their_end(method, path, kind, operation):
    """R-060: what costs money is metered, what is stored is fetched."""
    dialect = OpenAIResponses()
    assert dialect.matches(method, path)
    call = dialect.decode(_inbound(BODY, path, method), PROVIDER)
    assert (kind, operation) == (call.kind, call.operation)
    assert ("resp_1" if kind == "retrieve" else None) == call.response_id


@pytest.mark.parametrize(
    "path", ["/v1/responses/resp_1/oracle", "/v1/responses/input_tokens/x", "/v1/responses/a/b/cancel"]
)
def test_a_post_that_nobody_understands_is_no_path_of_ours(path):
    """http.md section 2: what may cost money but isn't understood is the router's to refuse."""
    assert not OpenAIResponses().matches("POST", path)


def test_a_stored_response_may_be_streamed():
    """The query says whether a stored response comes as a stream."""
    dialect = OpenAIResponses()
    assert dialect.decode(_inbound(b"", "/v1/responses/r", "GET", "stream=true"), PROVIDER).stream
    assert not dialect.decode(_inbound(b"", "/v1/responses/r", "GET", "stream=false"), PROVIDER).stream


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/conversations", "/v1/responses_old"])
def test_foreign_paths_do_not_match(path):
    """Paths of other formats are left to them."""
    assert not OpenAIResponses().matches("POST", path)


def test_a_request_is_bounded_by_what_it_says():
    """R-086: limit, tier, hosted tools and what lies at the provider end up in the size."""
    call = _decode(
        max_output_tokens=900,
        max_tool_calls=2,
        service_tier="flex",
        background=True,
        stream=True,
        instructions="Be brief.",
        previous_response_id="resp_0",
        tools=[{"type": "web_search"}, {"type": "function", "name": "add"}],
    )
    size = call.size
    assert (900, "flex", True, (Hosted("web_search", 2, True),)) == (
        size.asked_output,
        size.tier,
        size.unseen,
        size.hosted,
    )
    assert (True, True, ("add",), "resp_0") == (call.background, call.stream, call.tools, call.lineage.previous)
    assert (False, True) == (_decode().size.unseen, _decode().lineage.system != call.lineage.system)


@pytest.mark.parametrize(
    "pointer", [{"prompt": {"id": "p"}}, {"previous_response_id": "r"}, {"conversation": {"id": "c"}}]
)
def test_the_model_may_be_left_to_what_is_pointed_to(pointer):
    """R-087: the price is then unknown until the answer names the model."""
    call = OpenAIResponses().decode(_inbound({"input": "hi", **pointer}), PROVIDER)
    assert ("", True) == (call.model, call.size.unseen)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b'{"input":"x"}', b'{"model":"a","model":"b"}', b'{"model":"a","input":7}',
        b'{"model":"a","input":[7]}', b'{"model":"a","max_output_tokens":-1}', b'{"model":"a","stream":1}',
        b'{"model":"a","max_output_tokens":1e400}', b'{"model":"a","tools":{}}', b'{"model":"a","tools":[1]}',
        b'{"model":"a","conversation":7}',
        b'{"model":"a","input":[' + b"[" * 80 + b"]" * 80 + b"]}",
    ],
)  # fmt: skip
def test_what_has_no_single_meaning_is_refused(body):
    """R-132: malformed bodies are a 400, never a traceback."""
    with pytest.raises(Undecodable) as refused:
        OpenAIResponses().decode(_inbound(body), PROVIDER)
    assert 400 == refused.value.status


@pytest.mark.parametrize("named", [True, False])
def test_a_stream_is_read_as_it_passes(named):
    """R-063: with or without `event:` lines; the last event waits until the call is settled."""
    *body, last = _stream(named)
    reader = OpenAIResponses().reader(_decode(tools=[{"type": "function", "name": "add"}]), False)
    assert b"".join(body) == b"".join(reader.feed(event) for event in body)
    assert ('Let me see.{"a":1}', 18, None) == (reader.take(), reader.output_bytes, reader.input_told)
    assert b"" == reader.feed(last + b"data: [DONE]\n\n")
    reply = reader.reply()
    assert reply.usage is not None
    assert (9, 5, 4, 2) == (
        reply.usage.input_tokens,
        reply.usage.output_tokens,
        reply.usage.cache_read_tokens,
        reply.usage.reasoning_tokens,
    )
    assert ("gpt-x-1", "resp_1", "completed", "default") == (
        reply.model,
        reply.response_id,
        reply.finish_reason,
        reply.tier,
    )
    assert [("call_1", "add", True, True)] == [(c.id, c.name, c.known, c.valid) for c in reply.tool_calls]
    assert (True, True) == (reply.ended, reply.usage_complete)
    assert last + b"data: [DONE]\n\n" == reader.rest()


def test_a_last_event_without_output_keeps_what_was_gathered():
    """R-100: Codex's backend ends with an empty `output`; the tool calls are known from their own events."""
    *body, _ = _stream()
    reader = OpenAIResponses().reader(_decode(), False)
    for event in body:
        reader.feed(event)
    early = reader.reply()
    reader.feed(_event("response.completed", 7, response=_response("completed", usage=USAGE)))
    reply = reader.reply()
    assert ("in_progress", False, False) == (early.finish_reason, early.ended, early.usage_complete)
    assert (early.tool_calls, early.links) == (reply.tool_calls, reply.links)
    assert (1, 2, True) == (len(reply.tool_calls), len(reply.links), reply.usage_complete)


def test_an_answer_is_found_again_in_the_next_request():
    """The links of an answer, streamed or whole, are those that the next request quotes, without its thoughts."""
    dialect = OpenAIResponses()
    first = dialect.decode(_inbound(BODY), PROVIDER)
    reader = dialect.reader(first, False)
    for event in _stream():
        reader.feed(event)
    links = reader.reply().links
    whole = _response("completed", output=[{"type": "reasoning", "id": "rs"}, MESSAGE, CALL], usage=USAGE)
    assert links == dialect.whole(first, 200, json.dumps(whole).encode()).links
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "2"},
    ]
    later = dialect.decode(_inbound({**BODY, "input": history}), PROVIDER).lineage
    at = first.lineage.chain[-1]
    assert (fold(at, links[0]), fold(fold(at, links[0]), links[1])) == later.chain[1:3]
    assert ((1, 2), links[-1], ("call_1",), first.lineage.first) == (
        later.answers,
        later.last_answer,
        later.ids,
        later.first,
    )


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (_event("error", 9, code="server_error", message="x", param=None), "server_error"),
        (_event("error", 9, error={"type": "overloaded", "message": "x"}), "overloaded"),
        (_event("response.failed", 9, response=_response("failed", error={"code": "server_error"})), "server_error"),
    ],
)
def test_an_error_in_a_stream_ends_it(event, error):
    """R-132: both spellings of a failure end the stream; no usage was told."""
    reader = OpenAIResponses().reader(_decode(), False)
    start = _stream()[0]
    assert start == reader.feed(start + event)
    reply = reader.reply()
    assert (True, error, False) == (reader.ended, reply.error, reply.usage_complete)
    assert event == reader.rest()


def test_a_long_last_event_does_not_leave_in_parts():
    """The last event repeats instructions, tools and output: however long, it leaves after the call was settled."""
    reader = OpenAIResponses().reader(_decode(), False)
    last = _event("response.completed", 7, response=_response("completed", usage=USAGE, instructions="x" * 300_000))
    for at in range(0, len(last), MAX_HELD_BYTES // 2):
        assert b"" == reader.feed(last[at : at + MAX_HELD_BYTES // 2])
    assert (True, last) == (reader.ended, reader.rest())


def test_values_of_an_unexpected_kind_are_passed_and_read_as_far_as_possible():
    """R-132: a wire that changes is metered still."""
    reader = OpenAIResponses().reader(_decode(), False)
    odd = _event("response.future.delta", 1, delta={"x": 1}) + b"data: nonsense\n\ndata: [1]\n\n"
    assert odd == reader.feed(odd)
    reader.feed(_event("response.completed", 2, output_index="x", response=_response("completed", usage=USAGE)))
    assert (True, True, 0) == (reader.ended, reader.reply().usage_complete, reader.output_bytes)


def test_a_background_response_is_pending_until_it_is_fetched():
    """R-087: the POST of a background response shows no usage; fetching it does."""
    dialect = OpenAIResponses()
    queued = dialect.whole(_decode(background=True), 200, json.dumps(_response("queued", background=True)).encode())
    assert (True, False, True) == (queued.pending, queued.usage_complete, queued.ended)
    call = dialect.decode(_inbound(b"", "/v1/responses/resp_1", "GET"), PROVIDER)
    fetched = dialect.whole(call, 200, json.dumps(_response("completed", usage=USAGE)).encode())
    assert (False, True, "resp_1") == (fetched.pending, fetched.usage_complete, fetched.response_id)


def test_rewrite_changes_only_what_it_must():
    """R-086: the same object where nothing changes; else only the limit and the cap."""
    dialect = OpenAIResponses()
    raw = b'{"model":"gpt-x", "max_output_tokens": 900,\n "input":"hi", "tools":[{"type":"web_search"}]}'
    call = dialect.decode(_inbound(raw), PROVIDER)
    assert raw is dialect.rewrite(call, raw, Edits(ask_usage=True))
    assert raw is dialect.rewrite(call, raw, Edits(1000, True))
    expected = raw.replace(b"900", b"300")[:-1] + b',"max_tool_calls":5}'
    assert expected == dialect.rewrite(call, raw, Edits(300, caps=5))
    bare = dialect.decode(_inbound(BODY), PROVIDER)
    assert {**BODY, "max_output_tokens": 30} == json.loads(
        dialect.rewrite(bare, json.dumps(BODY).encode(), Edits(30, caps=5))
    )


@pytest.mark.parametrize(
    ("rest", "out"),
    [
        (b'"tools":[{"type":"web_search"}]', b'"tools":[{"type":"web_search"}],"tool_choice":"none"'),
        (
            b'"tools":[{"type":"web_search"}], "tool_choice": {"type":"web_search"}, "parallel_tool_calls":true',
            b'"tools":[{"type":"web_search"}], "tool_choice": "none", "parallel_tool_calls":true',
        ),
        (b'"tools":[],"tool_choice":"auto"', b'"tools":[],"tool_choice":"auto"'),
    ],
)
def test_a_last_call_may_not_use_the_tools_that_it_lists(rest: bytes, out: bytes):
    """`tool_choice` none, also where the client forced one; nothing where no tools are offered."""
    raw = b'{"model":"gpt-x","input":"hi",' + rest + b"}"
    call = OpenAIResponses().decode(_inbound(raw), PROVIDER)
    assert b'{"model":"gpt-x","input":"hi",' + out + b"}" == OpenAIResponses().rewrite(call, raw, Edits(last=True))


def test_all_edits_at_once_keep_the_rest():
    """Four fields set in one body: valid JSON, in the order in which they were added."""
    raw = b'{"model":"gpt-x","input":"hi","tools":[{"type":"web_search"}]}'
    call = OpenAIResponses().decode(_inbound(raw), PROVIDER)
    out = OpenAIResponses().rewrite(call, raw, Edits(300, True, 5, True, "gpt-y"))
    added = b',"max_output_tokens":300,"max_tool_calls":5,"tool_choice":"none"}'
    assert raw.replace(b"gpt-x", b"gpt-y")[:-1] + added == out


def test_errors_of_the_provider_are_told_from_a_proxys_page():
    """Only JSON with an error is the provider's own; garbage gives a Reply without an end."""
    dialect = OpenAIResponses()
    assert dialect.own_error(b'{"error":{"message":"x"}}')
    assert not dialect.own_error(b"<html>502</html>")
    page = dialect.whole(_decode(), 502, b"<html>502</html>")
    assert (False, "http_502") == (page.ended, page.error)


def test_a_stream_under_a_wrong_content_type_is_read():
    """R-087: Bedrock sends streams as octet-stream; such a body is metered all the same."""
    reply = OpenAIResponses().whole(_decode(), 200, b"".join(_stream()))
    assert (True, True, "completed") == (reply.ended, reply.usage_complete, reply.finish_reason)


def _sdk(status: int, body: bytes, kind: str) -> openai.OpenAI:
    def answer(_request):
        return httpx2.Response(status, headers={"content-type": kind, "x-should-retry": "false"}, content=body)

    return openai.OpenAI(api_key="x", http_client=httpx2.Client(transport=httpx2.MockTransport(answer)))


@pytest.mark.parametrize("events", [0, 1, 3, 6])
def test_the_sdk_sees_a_failed_response_in_a_cut_stream(events):
    """R-086: a cut is `response.failed` with code, message and details; no open tool call is closed."""
    reader = OpenAIResponses().reader(_decode(), False)
    passed = b"".join(reader.feed(event) for event in _stream()[:events]) + reader.cut(REFUSAL)
    assert passed.count(b"output_item.done") == 2 * (events > 3)
    client = _sdk(200, passed, "text/event-stream")
    *_, last = client.responses.create(**BODY, stream=True)
    assert isinstance(last, ResponseFailedEvent)
    assert ("failed", events) == (last.response.status, last.sequence_number)
    error = last.response.error
    assert error is not None
    assert ("insufficient_quota", "This run has spent its $1.") == (error.code, error.message)
    assert (("resp_1", "gpt-x-1") if events else ("resp_cut", "")) == (last.response.id, last.response.model)


def test_the_sdks_helper_ends_on_a_cut_without_a_final_response():
    """R-086: `.stream()` must not take a cut for a completed response."""
    reader = OpenAIResponses().reader(_decode(), False)
    passed = b"".join(reader.feed(event) for event in _stream()[:3]) + reader.cut(REFUSAL)
    with _sdk(200, passed, "text/event-stream").responses.stream(**BODY) as stream:
        assert "response.failed" == list(stream)[-1].type
        with pytest.raises(RuntimeError):
            stream.get_final_response()


def test_the_sdk_knows_a_refusal():
    """R-086: 402 is an APIStatusError with the message as it was written."""
    with pytest.raises(openai.APIStatusError) as raised:
        _sdk(402, OpenAIResponses().refuse(REFUSAL), "application/json").responses.create(**BODY)
    assert (402, "insufficient_quota") == (raised.value.status_code, raised.value.code)
    assert "This run has spent its $1." in str(raised.value)
