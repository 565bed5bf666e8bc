"""Captured messages as the JSON that backends read (contract, section 4): opted-in content, and nothing else.

Invariant: what is not a well-formed message is left out by itself, since one malformed message makes Phoenix drop the
whole list; a text that must be shortened is cut at the borders of messages, so that it stays JSON. What never enters:
content where the destination did not opt in (the caller asks first), capturing or redacting (that is done before the
journal is written).

`Exchange.content` as `Reading.content` gives it: {"system": [part], "input": [message], "output": [message], "tools":
[definition]}; a message is {"role", "parts": [part], "finish_reason"?}, a part any object with a `type`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.core.telemetry import names
from gateway.core.types import Exchange

MOST_BYTES: Final = 60_000  # of one list, below spans.MOST_CONTENT_BYTES
MOST_MESSAGES: Final = 1_000
ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
# Providers' own words for why an answer ended, as the message schema spells them; anything else is `stop`.
FINISH: Final = {
    "stop": "stop", "end_turn": "stop", "stop_sequence": "stop", "completed": "stop", "STOP": "stop",
    "length": "length", "max_tokens": "length", "MAX_TOKENS": "length", "incomplete:max_output_tokens": "length",
    "content_filter": "content_filter", "refusal": "content_filter", "SAFETY": "content_filter",
    "incomplete:content_filter": "content_filter",
    "tool_calls": "tool_call", "tool_use": "tool_call", "function_call": "tool_call",
    "failed": "error", "error": "error",
}  # fmt: skip

_encode = msgspec.json.Encoder().encode


def attributes(call: Exchange) -> dict[str, str | int | bool]:
    """The content of a call as span attributes, each list a JSON text; empty where none was captured."""
    said = {name: text for name, value in structured(call).items() if (text := _within(value))}
    if not said:
        return {}
    more: dict[str, str | int | bool] = {**said}
    rules = call.content.get("rules")
    if isinstance(rules, int):
        more[names.REDACTION] = rules
    if call.content.get("truncated") is True:
        more[names.CONTENT_CUT] = True
    return more


def structured(call: Exchange) -> dict[str, list[dict[str, Any]]]:
    """The same as lists, for the log record."""
    content = call.content
    if not isinstance(content, dict):
        return {}
    said = {
        names.SYSTEM: _parts(content.get("system")),
        names.INPUT_MESSAGES: _messages(content.get("input")),
        names.OUTPUT_MESSAGES: [_finished(one, call) for one in _messages(content.get("output"))],
        names.TOOL_DEFINITIONS: _tools(content.get("tools")),
    }
    return {name: value for name, value in said.items() if value}


def texts(call: Exchange) -> tuple[str | None, str | None]:
    """The text of the newest user's message and of the answer: what the run's root shows."""
    kept = structured(call)
    asked = [one for one in kept.get(names.INPUT_MESSAGES, []) if one["role"] == "user"]
    return _text(asked[-1:]), _text(kept.get(names.OUTPUT_MESSAGES, []))


def arguments_of(call: Exchange, tool_call: str) -> str | None:
    """The arguments of a tool call in this call's answer, as a JSON text."""
    return _found(structured(call).get(names.OUTPUT_MESSAGES, []), "tool_call", tool_call, "arguments")


def result_of(call: Exchange, tool_call: str) -> str | None:
    """What this call's request brought for a tool call."""
    return _found(structured(call).get(names.INPUT_MESSAGES, []), "tool_call_response", tool_call, "response")


def _found(messages: Iterable[dict[str, Any]], kind: str, tool_call: str, field: str) -> str | None:
    for message in messages:
        for part in message["parts"]:
            if part["type"] == kind and part.get("id") == tool_call and part.get(field) is not None:
                value = part[field]
                return value if isinstance(value, str) else _json(value)
    return None


def _text(messages: list[dict[str, Any]]) -> str | None:
    found = [part["content"] for one in messages for part in one["parts"] if part["type"] == "text"]
    return "\n".join(found) or None


def _parts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if _is_part(part)] if isinstance(value, list) else []


def _is_part(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    needed = {
        "text": "content", "reasoning": "content", "tool_call": "name", "tool_call_response": "response",
        "uri": "uri", "blob": "content", "file": "file_id",
    }  # fmt: skip
    field = needed.get(part["type"])
    if part["type"] == "tool_call_response":
        return "response" in part
    return field is None or isinstance(part.get(field), str)


def _messages(value: Any) -> list[dict[str, Any]]:
    found = []
    for one in value[-MOST_MESSAGES:] if isinstance(value, list) else ():
        if isinstance(one, dict) and one.get("role") in ROLES and (parts := _parts(one.get("parts"))):
            found.append({**one, "parts": parts})
    return found


def _finished(message: dict[str, Any], call: Exchange) -> dict[str, Any]:
    """An output message without `finish_reason` is malformed."""
    word = message.get("finish_reason") or call.finish_reason
    return {**message, "finish_reason": FINISH.get(str(word), "error" if call.outcome != "ok" else "stop")}


def _tools(value: Any) -> list[dict[str, Any]]:
    given = value if isinstance(value, list) else []
    return [one for one in given if isinstance(one, dict) and isinstance(one.get("name"), str) and "type" in one]


def _json(value: Any) -> str:
    return _encode(value).decode()


def _within(messages: list[dict[str, Any]]) -> str:
    """As JSON of at most MOST_BYTES: the newest messages, as many as fit."""
    sizes: list[bytes] = []
    room = MOST_BYTES - 2
    for one in reversed(messages):
        raw = _encode(one)
        room -= len(raw) + 1
        if room < 0:
            break
        sizes.append(raw)
    return f"[{b','.join(reversed(sizes)).decode()}]" if sizes else ""
