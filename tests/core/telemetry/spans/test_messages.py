"""Captured messages as backends read them: well-formed, bounded, mapped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.telemetry import names
from gateway.core.telemetry.spans import messages
from tests.ledgers import exchange

ASKED = {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]}
CALLED = {
    "role": "assistant",
    "parts": [{"type": "tool_call", "id": "t1", "name": "weather", "arguments": {"city": "Paris"}}],
}
TOLD = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "rainy"}]}
ANSWERED = {"role": "assistant", "parts": [{"type": "text", "content": "It rains."}]}


def call(**content: Any) -> Any:
    """A call whose content was captured."""
    return exchange("c1", 4, content=content, finish_reason="end_turn")


def read(told: Any, name: str) -> list[dict[str, Any]]:
    """An attribute, parsed."""
    found: list[dict[str, Any]] = json.loads(str(messages.attributes(told)[name]))
    return found


def test_messages_are_json_texts_in_the_schema():
    """Rule 5: a string; the part's key is `response`; an output message has its finish reason, mapped."""
    told = call(system=[{"type": "text", "content": "Be brief."}], input=[ASKED, CALLED, TOLD], output=[ANSWERED])
    assert [{"type": "text", "content": "Be brief."}] == read(told, names.SYSTEM)
    assert [ASKED, CALLED, TOLD] == read(told, names.INPUT_MESSAGES)
    assert [{**ANSWERED, "finish_reason": "stop"}] == read(told, names.OUTPUT_MESSAGES)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("tool_calls", "tool_call"), ("tool_use", "tool_call"), ("max_tokens", "length"), ("refusal", "content_filter"),
     ("SAFETY", "content_filter"), ("failed", "error"), ("a word of tomorrow", "stop")],
)  # fmt: skip
def test_providers_finish_reasons_are_mapped_in_the_message(word, expected):
    """Section 4: five words; the provider's own stays in gen_ai.response.finish_reasons."""
    told = exchange("c1", 4, content={"output": [ANSWERED]}, finish_reason=word)
    assert expected == read(told, names.OUTPUT_MESSAGES)[0]["finish_reason"]


@pytest.mark.parametrize(
    "odd",
    [None, "text", 5, {}, {"role": "robot", "parts": [{"type": "text", "content": "x"}]}, {"role": "user"},
     {"role": "user", "parts": "x"}, {"role": "user", "parts": [{"content": "x"}]},
     {"role": "user", "parts": [{"type": "text"}]}, {"role": "tool", "parts": [{"type": "tool_call_response"}]}],
)  # fmt: skip
def test_one_malformed_message_spoils_no_other(odd):
    """Phoenix would drop the whole list for it."""
    assert [ASKED] == read(call(input=[odd, ASKED]), names.INPUT_MESSAGES)


def test_a_long_conversation_is_cut_between_messages():
    """The newest stay, and it stays JSON."""
    long = [{"role": "user", "parts": [{"type": "text", "content": f"{n} " + "x" * 1000}]} for n in range(200)]
    found = read(call(input=long), names.INPUT_MESSAGES)
    assert long[-len(found) :] == found
    assert (
        50_000 < len(str(messages.attributes(call(input=long))[names.INPUT_MESSAGES]).encode()) <= messages.MOST_BYTES
    )
    short = [{"role": "user", "parts": [{"type": "text", "content": ""}]}] * 5_000
    assert messages.MOST_MESSAGES == len(messages.structured(call(input=short))[names.INPUT_MESSAGES])
    huge = [{"role": "user", "parts": [{"type": "text", "content": "x" * 100_000}]}]
    assert {} == messages.attributes(call(input=huge))


def test_tools_are_found_by_their_id():
    """Arguments in the answer that asked, the result in the request that brought it."""
    told = call(input=[ASKED, TOLD], output=[CALLED])
    assert '{"city":"Paris"}' == messages.arguments_of(told, "t1")
    assert "rainy" == messages.result_of(told, "t1")
    assert None is messages.arguments_of(told, "t2")


def test_the_root_shows_the_newest_question_and_the_answer():
    """Rule 6: Phoenix takes a session's first input and last output from there."""
    assert ("Weather in Paris?", "It rains.") == messages.texts(call(input=[ASKED, TOLD], output=[ANSWERED]))
    assert (None, None) == messages.texts(exchange("c1", 4))


def test_nothing_captured_is_nothing_said():
    """Whatever lies there instead."""
    odd: tuple[Any, ...] = (None, "text", [], {"input": "x", "output": 5, "system": {}, "tools": [1, {"name": "x"}]})
    for content in odd:
        assert {} == messages.attributes(exchange("c1", 4, content=content))
    tools = [{"type": "function", "name": "weather"}]
    assert tools == read(call(tools=tools), names.TOOL_DEFINITIONS)
