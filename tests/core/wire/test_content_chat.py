"""Chat and legacy completions as messages: every kind of part, whole and streamed alike."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.wire import content
from gateway.core.wire.content_chat import FAMILY


def answer(body: bytes) -> list[content.Message]:
    return FAMILY.answer(body, lambda: None)


def events(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def test_every_kind_of_part() -> None:
    """Texts, pictures, sounds, files, refusals; what isn't known stands as text."""
    parts = [
        {"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "input_audio", "input_audio": {"data": "QUJDRA==", "format": "mp3"}},
        {"type": "file", "file": {"file_id": "f1"}}, {"type": "refusal", "refusal": "no"}, {"type": "odd", "x": 1}, 7,
    ]  # fmt: skip
    assert [
        {"type": "text", "content": "look"}, {"type": "uri", "modality": "image", "uri": "https://x/a.png"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "", "size_bytes": 3},
        {"type": "blob", "modality": "audio", "mime_type": "audio/mp3", "content": "", "size_bytes": 6},
        {"type": "file", "modality": "document", "file_id": "f1"}, {"type": "text", "content": "no"},
        {"type": "text", "content": '{"type":"odd","x":1}'}, {"type": "text", "content": "7"},
    ] == FAMILY.message({"role": "user", "content": parts})["parts"]  # fmt: skip


def test_tools_in_both_directions() -> None:
    """Calls with their arguments as values, custom and legacy ones; results by the call's id."""
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "custom", "custom": {"name": "g", "input": "free"}},
    ]
    assert [
        {"type": "tool_call", "id": "a", "name": "f", "arguments": {"x": 1}},
        {"type": "tool_call", "id": "b", "name": "g", "arguments": "free"},
    ] == FAMILY.message({"role": "assistant", "content": None, "tool_calls": calls})["parts"]
    legacy = FAMILY.message({"role": "assistant", "content": None, "function_call": {"name": "h", "arguments": "{}"}})
    assert [{"type": "tool_call", "name": "h", "arguments": {}}] == legacy["parts"]
    assert {"role": "tool", "parts": [{"type": "tool_call_response", "id": "a", "response": "done"}]} == (
        FAMILY.message({"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "done"}]})
    )
    assert {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}} == FAMILY.tool(
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    )


def test_a_stream_is_the_message_of_the_whole() -> None:
    """Pieces of text, thoughts and two tool calls, in two choices."""
    call = {"name": "f", "arguments": '{"x": [1, 2]}'}
    whole = {"choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hello", "reasoning_content": "hm",
                                 "tool_calls": [{"id": "a", "function": call}, {"id": "b", "function": call}]}},
        {"index": 1, "message": {"role": "assistant", "content": "other"}},
    ]}  # fmt: skip
    deltas: list[tuple[int, dict[str, Any]]] = [
        (0, {"role": "assistant", "reasoning_content": "h"}), (0, {"reasoning_content": "m"}), (0, {"content": "hel"}),
        (1, {"content": "other"}), (0, {"content": "lo"}),
        (0, {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": '}}]}),
        (0, {"tool_calls": [{"index": 1, "id": "b", "function": call}]}),
        (0, {"tool_calls": [{"index": 0, "function": {"arguments": "[1, 2]}"}}]}),
    ]  # fmt: skip
    stream = events(*({"choices": [{"index": at, "delta": delta}]} for at, delta in deltas), {"choices": []})
    assert answer(json.dumps(whole).encode()) == answer(stream)


def test_legacy_completions_have_a_prompt_and_texts() -> None:
    """A prompt, or several, are the user's; each choice is an answer."""
    asked = FAMILY.asked(content.read_body(b'{"prompt": ["a", "b"]}'))
    assert [["a"], ["b"]] == [
        [part["content"] for part in FAMILY.message(content.value_of(raw))["parts"]] for raw in asked.messages
    ]
    assert ["x"] == [one["parts"][0]["content"] for one in answer(b'{"choices": [{"text": "x"}]}')]
    assert "xy" == answer(events({"choices": [{"text": "x"}]}, {"choices": [{"text": "y"}]}))[0]["parts"][0]["content"]


def test_an_answer_without_words_is_no_message() -> None:
    """An error, an empty answer."""
    assert [] == answer(b'{"error": {"message": "no"}}') == answer(b'{"choices": [{"message": {"content": ""}}]}')
