"""Anthropic's Messages as messages: every kind of block, whole and streamed alike."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.wire import content
from gateway.core.wire.content_anthropic import FAMILY


def answer(body: bytes) -> list[content.Message]:
    return FAMILY.answer(body, lambda: None)


def test_every_kind_of_block() -> None:
    """Texts, thoughts, tools, the provider's own tools, media; signatures are left out, what is odd stands as text."""
    blocks = [
        {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
        {"type": "thinking", "thinking": "hm", "signature": "xyz"}, {"type": "redacted_thinking", "data": "xyz"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
        {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}},
        {"type": "document", "source": {"type": "text", "data": "page"}}, {"type": "odd", "x": 1}, "loose",
    ]  # fmt: skip
    assert [
        {"type": "text", "content": "hi"}, {"type": "reasoning", "content": "hm"}, {"type": "redacted_thinking"},
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}},
        {"type": "server_tool_call", "id": "s", "name": "web_search", "server_tool_call": {"query": "q"}},
        {"type": "server_tool_call_response", "id": "s", "server_tool_call_response": [{"type": "web_search_result"}]},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "", "size_bytes": 3},
        {"type": "uri", "modality": "document", "uri": "https://x/a.pdf"}, {"type": "text", "content": "page"},
        {"type": "text", "content": '{"type":"odd","x":1}'}, {"type": "text", "content": "loose"},
    ] == FAMILY.message({"role": "assistant", "content": blocks})["parts"]  # fmt: skip


def test_results_of_tools_are_the_tools_own() -> None:
    """A user's message of results only; with a word of the user it stays the user's."""
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "done"}]}
    told = {"type": "tool_call_response", "id": "a", "response": "done"}
    assert {"role": "tool", "parts": [told]} == FAMILY.message({"role": "user", "content": [result]})
    both = FAMILY.message({"role": "user", "content": [result, {"type": "text", "text": "and?"}]})
    assert ("user", [told, {"type": "text", "content": "and?"}]) == (both["role"], both["parts"])


def test_a_request_apart() -> None:
    """System as a text or as blocks, tools with their schema."""
    asked = FAMILY.asked(content.read_body(b'{"system": "be brief", "messages": [1], "tools": [{"name": "f"}]}'))
    assert (b'"be brief"', (b"1",), (b'{"name": "f"}',)) == (asked.system, asked.messages, asked.tools)
    assert [{"type": "text", "content": "x"}] == FAMILY.system("x") == FAMILY.system([{"type": "text", "text": "x"}])
    given = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}}
    assert {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}} == FAMILY.tool(given)


def test_a_stream_is_the_message_of_the_whole() -> None:
    """Text, thoughts and a tool's input, each in pieces; a stream that broke off gives what came."""
    blocks = [
        {"type": "thinking", "thinking": "let me see"}, {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1]}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]  # fmt: skip
    begins: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "", "signature": ""}, {"type": "text", "text": ""},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]  # fmt: skip
    deltas = [
        (0, {"type": "thinking_delta", "thinking": "let me "}), (0, {"type": "thinking_delta", "thinking": "see"}),
        (0, {"type": "signature_delta", "signature": "xyz"}), (1, {"type": "text_delta", "text": "hel"}),
        (1, {"type": "text_delta", "text": "lo"}), (2, {"type": "input_json_delta", "partial_json": '{"x": '}),
        (2, {"type": "input_json_delta", "partial_json": "[1]}"}),
    ]  # fmt: skip
    told: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": at, "content_block": one} for at, one in enumerate(begins)
    ]
    told += [{"type": "content_block_delta", "index": at, "delta": delta} for at, delta in deltas]
    stream = b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in told)
    assert answer(json.dumps({"content": blocks}).encode()) == answer(stream)
    broken = answer(stream[: stream.index(b'"[1]}')])
    assert '{"x": ' == broken[0]["parts"][2]["arguments"]


def test_an_error_is_no_message() -> None:
    """Neither is an answer without blocks."""
    assert [] == answer(b'{"type": "error", "error": {}}') == answer(b'{"content": []}')
