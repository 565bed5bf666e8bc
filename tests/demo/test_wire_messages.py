"""Anthropic messages as the scripted provider spells it (wire-formats.md sections 1, 2, 4, 5)."""

import json

import pytest

from gateway.demo import wire_messages
from gateway.demo.script import Answer, Prompt, Tool

SAID = Answer("1", "m", (" a", " b", " c"), 0, Tool("t1", "look", '{"step": 1}'), "tool", 10, 4)


def events(with_usage=True):
    """(event, tokens) of a stream."""
    spelled = wire_messages.stream(SAID, Prompt("m", True, 10), with_usage, 2)
    return [(json.loads(raw.split(b"data: ")[1]), tokens) for raw, tokens in spelled]


def test_a_request_is_read():
    """max_tokens is required; tool results are blocks."""
    body = {
        "model": "m", "max_tokens": 9, "tools": [{"name": "look"}],
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "y"}]},
        ],
    }  # fmt: skip
    read = wire_messages.read(json.dumps(body).encode())
    assert (9, ("look",), 1, False) == (read.limit, read.tools, read.tool_results, read.stream)
    del body["max_tokens"]
    with pytest.raises(KeyError):
        wire_messages.read(json.dumps(body).encode())


def test_a_stream_joins_to_the_whole_answer():
    """Text, tool arguments, stop reason and usage are the whole answer's."""
    made = [event for event, _ in events()]
    whole = json.loads(wire_messages.whole(SAID, True))
    text = "".join(event["delta"].get("text", "") for event in made if event["type"] == "content_block_delta")
    given = "".join(event["delta"].get("partial_json", "") for event in made if event["type"] == "content_block_delta")
    assert [text, json.loads(given)] == [whole["content"][0]["text"], whole["content"][1]["input"]]
    assert ["message_start", "message_delta", "message_stop"] == [made[0]["type"], made[-2]["type"], made[-1]["type"]]
    assert whole["stop_reason"] == made[-2]["delta"]["stop_reason"] == "tool_use"
    assert whole["usage"]["output_tokens"] == made[-2]["usage"]["output_tokens"] == SAID.output_tokens


def test_cached_tokens_are_not_in_the_input():
    """Anthropic's input total is the sum of its parts."""
    usage = json.loads(wire_messages.whole(SAID, True))["usage"]
    assert (6, 4) == (usage["input_tokens"], usage["cache_read_input_tokens"])


def test_usage_can_be_withheld():
    """Neither event tells any."""
    assert not any("usage" in event or "usage" in event.get("message", {}) for event, _ in events(False))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "rate_limit_error"), (529, "overloaded_error"), (400, "invalid_request_error"), (500, "api_error")],
)
def test_errors_have_anthropics_shape(status, kind):
    """`type: error` around the error."""
    assert ("error", kind) == (
        json.loads(wire_messages.error(status, "x", "why"))["type"],
        json.loads(wire_messages.error(status, "x", "why"))["error"]["type"],
    )
