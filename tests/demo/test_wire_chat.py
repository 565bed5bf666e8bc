"""OpenAI chat as the scripted provider spells it (wire-formats.md sections 1, 2, 4, 5)."""

import json

import pytest

from gateway.demo import wire_chat
from gateway.demo.script import Answer, Prompt, Tool

SAID = Answer("1", "m", (" a", " b", " c"), 2, Tool("call_1", "look", '{"step": 1}'), "tool", 10, 4)


def events(with_usage=True, asked=True):
    """(event or text, tokens) of a stream."""
    spelled = wire_chat.stream(SAID, Prompt("m", True, 10, usage_asked=asked), with_usage, 2)
    return [(raw, tokens) for raw, tokens in spelled]


def test_a_request_is_read():
    """Both limit names count, the lower one holds; tool results and usage wishes are seen."""
    body = {
        "model": "m", "stream": True, "max_tokens": 9, "max_completion_tokens": 7,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}],
    }  # fmt: skip
    read = wire_chat.read(json.dumps(body).encode())
    assert ("m", True, 7, ("look",), 1, True) == (
        read.model, read.stream, read.limit, read.tools, read.tool_results, read.usage_asked,
    )  # fmt: skip
    with pytest.raises(KeyError):
        wire_chat.read(b"{}")


def test_a_stream_joins_to_the_whole_answer():
    """Text and arguments in pieces are the whole answer's, and tokens never fall."""
    made = events()
    assert b"data: [DONE]\n\n" == made[-1][0]
    deltas = [json.loads(raw[6:]) for raw, _ in made[:-1]]
    whole = json.loads(wire_chat.whole(SAID, True))
    message = whole["choices"][0]["message"]
    pieces = [choice["delta"] for event in deltas for choice in event["choices"]]
    assert message["content"] == "".join(piece.get("content") or "" for piece in pieces)
    arguments = [call["function"]["arguments"] for piece in pieces for call in piece.get("tool_calls", ())]
    assert message["tool_calls"][0]["function"]["arguments"] == "".join(arguments)
    assert whole["usage"] == deltas[-1]["usage"] and [] == deltas[-1]["choices"]
    assert sorted(tokens for _, tokens in made) == [tokens for _, tokens in made]
    assert SAID.output_tokens == made[-1][1] == whole["usage"]["completion_tokens"]


def test_usage_is_told_only_when_asked_for():
    """Not asked, or withheld by the script: no usage chunk."""
    assert len(events()) - 1 == len(events(asked=False)) == len(events(with_usage=False))
    assert "usage" not in json.loads(wire_chat.whole(SAID, False))


def test_errors_have_openais_shape():
    """`error` with message, type, param and code."""
    assert {"message": "why", "type": "server_error", "param": None, "code": "x"} == json.loads(
        wire_chat.error(500, "x", "why")
    )["error"]


def test_every_choice_is_made_and_billed():
    """`n` answers side by side: each stands in the whole answer and in the stream, and their tokens add up."""
    three = Answer("1", "m", (" a", " b"), 2, None, "stop", 10, 0, choices=3)
    whole = json.loads(wire_chat.whole(three, True))
    assert [0, 1, 2] == [choice["index"] for choice in whole["choices"]]
    assert 12 == whole["usage"]["completion_tokens"]
    made = list(wire_chat.stream(three, Prompt("m", True, 10, usage_asked=True), True, 1))
    assert 12 == made[-1][1]
    assert sorted(tokens for _, tokens in made) == [tokens for _, tokens in made]
    assert 3 == wire_chat.read(b'{"model": "m", "messages": [], "n": 3}').choices
