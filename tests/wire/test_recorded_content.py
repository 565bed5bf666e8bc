"""Recorded traffic as messages: well-formed all of it, with the tool calls of the ground truth."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from gateway.core.capture import FAMILIES
from gateway.core.telemetry.spans import messages
from gateway.core.wire import content
from tests.wire.recorded import exchanges

# One item of a search for tools that the provider leaves to the client: it has no name that could be called.
NAMELESS = {"tool_search_call"}


def answer(family: content.Family, body: bytes) -> list[content.Message]:
    return family.answer(body, lambda: None)


@pytest.mark.parametrize("dialect", sorted(FAMILIES))
def test_recorded_exchanges_become_messages(dialect: str) -> None:
    """No part is malformed (one would make Phoenix drop the list), every tool call of an answer is in its message."""
    family = FAMILIES[dialect]
    read = 0
    for row in exchanges(dialect):
        if row["request_body"] is None or row.get("response_body_base64"):
            continue
        asked = family.asked(content.read_body(json.dumps(row["request_body"]).encode()))
        found = [family.message(content.value_of(raw)) for raw in asked.messages]
        said = answer(family, row["response_body"].encode())
        assert asked.messages, row["id"]
        for one in [*found, *said]:
            assert one["role"] in messages.ROLES, row["id"]
            assert [one["parts"]] == [messages._parts(one["parts"])], row["id"]
        made = [part["name"] for one in said for part in one["parts"] if part["type"] == "tool_call"]
        expected = [name for name in row["expected"]["tool_calls"] or [] if name not in NAMELESS]
        assert expected == [name for name in made if name], row["id"]
        read += 1
    assert read >= 10


@pytest.mark.parametrize("dialect", sorted(FAMILIES))
def test_an_answer_that_is_quoted_is_the_same_message(dialect: str) -> None:
    """In a session's next request the answer stands as it came, so that it is kept once: for most, since clients
    leave out what they don't need (thoughts, empty texts)."""
    if dialect in ("openai-completions", "openai-responses"):  # no history; items are messages of their own
        return
    family = FAMILIES[dialect]
    sessions: dict[str, list[Any]] = {}
    for row in exchanges(dialect):
        if row["request_body"] is not None and not row.get("response_body_base64"):
            sessions.setdefault(row["cassette"], []).append(row)
    same = quoted = 0
    for rows in sessions.values():
        for before, after in pairwise(rows):
            answers = answer(family, before["response_body"].encode())
            asked = family.asked(content.read_body(json.dumps(after["request_body"]).encode()))
            told = [family.message(content.value_of(raw)) for raw in asked.messages]
            said = [one for one in told if one["role"] == "assistant"]
            if len(answers) == 1 and said and _calls(said[-1]) == _calls(answers[0]) != []:
                quoted += 1
                same += said[-1] == answers[0]
    assert quoted > 20 and same / quoted > 0.5, (same, quoted)


def _calls(message: dict[str, Any]) -> list[Any]:
    return [(part.get("id"), part["name"]) for part in message["parts"] if part["type"] == "tool_call"]
