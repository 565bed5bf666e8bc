"""OpenAI's Responses as messages: every kind of item, whole and streamed alike."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.wire import content
from gateway.core.wire.content_responses import FAMILY


def answer(body: bytes) -> list[content.Message]:
    return FAMILY.answer(body, lambda: None)


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


def test_every_kind_of_item() -> None:
    """Messages, calls, results, thoughts, the provider's own tools; sealed thoughts are left out."""
    cases: list[tuple[Any, str, list[dict[str, Any]]]] = [
        ("hi", "user", [{"type": "text", "content": "hi"}]),
        ({"role": "developer", "content": "be brief"}, "system", [{"type": "text", "content": "be brief"}]),
        ({"type": "message", "role": "user",
          "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://x"}]}, "user",
         [{"type": "text", "content": "a"}, {"type": "uri", "modality": "image", "uri": "https://x"}]),
        ({"type": "function_call", "call_id": "a", "id": "fc", "name": "f", "arguments": '{"x": 1}'}, "assistant",
         [{"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}}]),
        ({"type": "custom_tool_call", "call_id": "a", "name": "f", "input": "free"}, "assistant",
         [{"type": "tool_call", "id": "a", "name": "f", "arguments": "free"}]),
        ({"type": "function_call_output", "call_id": "a", "output": "done"}, "tool",
         [{"type": "tool_call_response", "id": "a", "response": "done"}]),
        ({"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "done"}]}, "tool",
         [{"type": "tool_call_response", "id": "a", "response": "done"}]),
        ({"type": "reasoning", "id": "r", "encrypted_content": "xyz",
          "summary": [{"type": "summary_text", "text": "hm"}]}, "assistant",
         [{"type": "reasoning", "content": "hm"}]),
        ({"type": "web_search_call", "id": "w", "status": "completed"}, "assistant",
         [{"type": "server_tool_call", "id": "w", "name": "web_search", "server_tool_call": {"status": "completed"}}]),
        ({"type": "item_reference", "id": "x"}, "assistant",
         [{"type": "text", "content": '{"type":"item_reference","id":"x"}'}]),
        (7, "user", [{"type": "text", "content": "7"}]),
    ]  # fmt: skip
    for value, role, parts in cases:
        assert {"role": role, "parts": parts} == FAMILY.message(value), value


def test_a_request_apart() -> None:
    """Input as a text or as items, instructions, tools by their kind."""
    asked = FAMILY.asked(
        content.read_body(b'{"instructions": "be brief", "input": "hi", "tools": [{"type": "web_search"}]}')
    )
    assert (b'"be brief"', (b'"hi"',)) == (asked.system, asked.messages)
    assert {"type": "web_search", "name": "web_search"} == FAMILY.tool(content.value_of(asked.tools[0]))
    assert [{"type": "text", "content": "x"}] == FAMILY.system(
        [{"role": "system", "content": [{"type": "input_text", "text": "x"}]}]
    )


ITEMS = [
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"x": 1}'},
]


def test_a_stream_is_the_message_of_the_whole() -> None:
    """By its last event, by its items, or by their pieces where it broke off."""
    whole = answer(json.dumps({"output": ITEMS}).encode())
    (message,) = whole
    assert ["reasoning", "text", "tool_call"] == [part["type"] for part in message["parts"]]
    done = [{"type": "response.output_item.done", "output_index": at, "item": item} for at, item in enumerate(ITEMS)]
    assert whole == answer(stream({"type": "response.completed", "response": {"output": ITEMS}}))
    assert whole == answer(stream(*done, {"type": "response.completed", "response": {"output": []}}))
    begun = [{"type": "reasoning", "id": "r", "summary": []}, {"type": "message", "role": "assistant", "content": []},
             {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""}]  # fmt: skip
    added = [{"type": "response.output_item.added", "output_index": at, "item": item} for at, item in enumerate(begun)]
    deltas = [
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm"},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "hel"},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "lo"},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"x": 1}'},
    ]
    assert whole == answer(stream(*added, *deltas))


def test_an_answer_without_items_is_no_message() -> None:
    """An error, a response that is still queued."""
    assert [] == answer(b'{"error": {}}') == answer(b'{"output": []}')
