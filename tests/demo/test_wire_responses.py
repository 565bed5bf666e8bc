"""OpenAI Responses as the scripted provider spells it (wire-formats.md sections 1, 2, 4, 5)."""

import json

import pytest

from gateway.demo import wire_responses
from gateway.demo.script import Answer, Prompt, Tool

SAID = Answer("1", "m", (" a", " b", " c"), 5, Tool("call_1", "look", '{"step": 1}'), "tool", 10, 4)


def events(said=SAID, with_usage=True):
    """(event, tokens) of a stream."""
    spelled = wire_responses.stream(said, Prompt("m", True, 10), with_usage, 2)
    return [(json.loads(raw.split(b"data: ")[1]), tokens) for raw, tokens in spelled]


def test_a_request_is_read():
    """A text or a list of items; only function tools count."""
    body = {
        "model": "m", "max_output_tokens": 9, "tools": [{"type": "function", "name": "look"}, {"type": "web_search"}],
        "input": [{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": "c", "output": "y"}],
    }  # fmt: skip
    read = wire_responses.read(json.dumps(body).encode())
    assert (9, ("look",), 1) == (read.limit, read.tools, read.tool_results)
    assert 0 == wire_responses.read(b'{"model": "m", "input": "x"}').tool_results
    with pytest.raises(KeyError):
        wire_responses.read(b'{"model": "m"}')


def test_a_stream_joins_to_the_whole_answer():
    """Deltas join to the text, the last event holds the whole answer with its usage, numbers count up."""
    made = [event for event, _ in events()]
    whole = json.loads(wire_responses.whole(SAID, True))
    assert list(range(len(made))) == [event["sequence_number"] for event in made]
    assert ("response.created", "response.completed") == (made[0]["type"], made[-1]["type"])
    assert whole == made[-1]["response"]
    assert SAID.text == "".join(event["delta"] for event in made if event["type"] == "response.output_text.delta")
    assert ["message", "function_call"] == [item["type"] for item in whole["output"]]
    assert SAID.output_tokens == whole["usage"]["output_tokens"] == 5 + 3 + 3


def test_a_limit_makes_it_incomplete():
    """`length` is status incomplete, with its reason."""
    cut = Answer("1", "m", (" a",), 0, None, "length", 10, 0)
    last = events(cut)[-1][0]
    assert ("response.incomplete", "max_output_tokens") == (
        last["type"],
        last["response"]["incomplete_details"]["reason"],
    )


def test_usage_can_be_withheld():
    """No event tells any."""
    assert not any(event.get("response", {}).get("usage") for event, _ in events(with_usage=False))
