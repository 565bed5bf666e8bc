"""The content of OpenAI-style chat and legacy completions: requests, whole answers, streams.

Invariant: an answer and the same answer quoted in the next request give the same message. What never enters: usage,
a decision what is kept.
"""

from __future__ import annotations

from typing import Any

from gateway.core.wire import content
from gateway.core.wire.content import Asked, Body, Family, Message, Part, Pause
from gateway.core.wire.flow import looks_streamed


def asked(body: Body) -> Asked:
    """What a request holds. A prompt of a legacy completion is a user's message."""
    return Asked(b"", content.items(body.messages or body.prompt), content.items(body.tools or body.functions))


def message(value: Any) -> Message:
    """One message of a request, or of an answer."""
    if not isinstance(value, dict):
        return content.message("user", [content.odd(value)])
    role, said = value.get("role"), value.get("content")
    if role in ("tool", "function"):
        told = content.texts(said)
        response = told if told is not None else said
        return content.message("tool", [content.tool_result(value.get("tool_call_id", value.get("name")), response)])
    parts = [content.reasoning(thought) for thought in _thoughts(value)]
    parts += _parts(said)
    if isinstance(refusal := value.get("refusal"), str) and refusal:
        parts.append(content.text(refusal))
    return content.message(role, parts + _calls(value))


def system(value: Any) -> list[Part]:
    """There is none beside the messages."""
    return [content.odd(value)]


def tool(value: Any) -> Part:
    """A tool as it is offered."""
    if not isinstance(value, dict):
        return {"type": "function", "name": content.said(value)}
    body = value.get("function", value.get("custom", value))
    body = body if isinstance(body, dict) else {}
    kept = {name: body[name] for name in ("name", "description", "parameters") if name in body}
    return {"type": "function", "name": content.said(value.get("type", "")), **kept}


def answer(body: bytes, pause: Pause) -> list[Message]:
    """The message of each choice."""
    if looks_streamed(body):
        return _streamed(body, pause)
    value = content.value_of(body)
    found = []
    for choice in content.objects(value.get("choices")) if isinstance(value, dict) else ():
        said = choice.get("message", {"content": choice.get("text")})
        one = message({"role": "assistant", **said} if isinstance(said, dict) else said)
        if one["parts"]:
            found.append(one)
    return found


def _thoughts(value: dict[str, Any]) -> list[str]:
    found = value.get("reasoning_content") or value.get("reasoning")
    return [found] if isinstance(found, str) and found else []


def _parts(said: Any) -> list[Part]:
    if said is None or said == "":
        return []
    if isinstance(said, str):
        return [content.text(said)]
    return [_part(one) for one in said] if isinstance(said, list) else [content.odd(said)]


def _part(value: Any) -> Part:
    kind = value.get("type") if isinstance(value, dict) else None
    body = value.get(kind) if kind else None
    if kind in ("text", "refusal") and isinstance(body, str):
        return content.text(body)
    if kind == "image_url":
        return content.media("image", body.get("url") if isinstance(body, dict) else body)
    if kind == "input_audio" and isinstance(body, dict):
        return content.blob("audio", f"audio/{body.get('format', 'wav')}", body.get("data"))
    if kind == "file" and isinstance(body, dict):
        return content.media("document", body.get("file_data"), body.get("file_id"))
    return content.odd(value)


def _calls(value: dict[str, Any]) -> list[Part]:
    calls = content.objects(value.get("tool_calls"))
    if isinstance(legacy := value.get("function_call"), dict) and legacy.get("name"):  # some servers send an empty one
        calls = [*calls, {"function": legacy}]
    found = []
    for call in calls:
        body = call.get("function") or call.get("custom")
        body = body if isinstance(body, dict) else {}
        arguments = body.get("arguments", body.get("input"))
        found.append(content.tool_call(call.get("id"), body.get("name"), arguments))
    return found


class _Choice:
    """One choice, put together from its pieces."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.thoughts: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[Any, dict[str, Any]] = {}

    def add(self, delta: dict[str, Any]) -> None:
        """A piece."""
        if isinstance(said := delta.get("content"), str):
            self.text.append(said)
        if isinstance(said := delta.get("refusal"), str):
            self.refusal.append(said)
        self.thoughts += _thoughts(delta)
        for piece in content.objects(delta.get("tool_calls")):
            self._call(piece.get("index", 0), piece)
        if isinstance(legacy := delta.get("function_call"), dict) and any(legacy.values()):
            self._call("legacy", {"function": legacy})

    def _call(self, index: Any, piece: dict[str, Any]) -> None:
        body = piece.get("function") or piece.get("custom")
        body = body if isinstance(body, dict) else {}
        call = self.calls.setdefault(str(index), {"id": None, "function": {"name": None, "arguments": ""}})
        call["id"] = call["id"] or piece.get("id")
        whole = call["function"]
        whole["name"] = whole["name"] or body.get("name")
        if isinstance(more := body.get("arguments", body.get("input")), str):
            whole["arguments"] += more

    def message(self) -> Message:
        """What it says so far, as a whole answer would."""
        return message(
            {
                "role": "assistant",
                "content": "".join(self.text),
                "reasoning_content": "".join(self.thoughts),
                "refusal": "".join(self.refusal),
                "tool_calls": list(self.calls.values()),
            }
        )


def _streamed(body: bytes, pause: Pause) -> list[Message]:
    choices: dict[str, _Choice] = {}
    for event in content.events(body, pause):
        for choice in content.objects(event.get("choices")):
            gathered = choices.setdefault(str(choice.get("index", 0)), _Choice())
            delta = choice.get("delta", choice.get("message"))
            gathered.add(delta if isinstance(delta, dict) else {"content": choice.get("text")})
    return [one for one in (gathered.message() for gathered in choices.values()) if one["parts"]]


FAMILY = Family(asked, message, system, tool, answer)
