"""The content of OpenAI's Responses: requests, whole answers, streams.

Invariant: each item of a request is a message; an answer is one message, its items are the parts. What never enters:
usage, encrypted thoughts, a decision what is kept.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.core.wire import content
from gateway.core.wire.content import Asked, Body, Family, Message, Part, Pause
from gateway.core.wire.flow import looks_streamed

_RESULTS: Final = "_output"
_SERVER: Final = frozenset(
    {
        "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call",
        "tool_search_call",
    }
)  # fmt: skip
_LARGE: Final = frozenset({"result", "encrypted_content"})  # of items: media, or what only the provider can read
# Deltas of an item that was not finished, and where its text belongs.
_GROWS: Final = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "thought",
    "response.reasoning_summary_text.delta": "thought",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


def asked(body: Body) -> Asked:
    """What a request holds."""
    return Asked(bytes(body.instructions), content.items(body.input), content.items(body.tools))


def message(value: Any) -> Message:
    """One item of a request."""
    if isinstance(value, str):
        return content.message("user", [content.text(value)])
    if not isinstance(value, dict):
        return content.message("user", [content.odd(value)])
    kind = value.get("type", "message")
    if kind == "message":
        return content.message(value.get("role"), system(value.get("content")))
    role = "tool" if str(kind).endswith(_RESULTS) else "assistant"
    return content.message(role, _item(str(kind), value))


def system(value: Any) -> list[Part]:
    """A text, or a list of parts; instructions may be messages, too."""
    if isinstance(value, str):
        return [content.text(value)] if value else []
    if not isinstance(value, list):
        return [content.odd(value)]
    found: list[Part] = []
    for one in value:
        nested = isinstance(one, dict) and "content" in one and "role" in one
        found += system(one["content"]) if nested else [_part(one)]
    return found


def tool(value: Any) -> Part:
    """A tool as it is offered."""
    if not isinstance(value, dict):
        return {"type": "function", "name": content.said(value)}
    kind = content.said(value.get("type", "function"))
    kept = {name: value[name] for name in ("description", "parameters") if name in value}
    return {"type": kind, "name": content.said(value.get("name", kind)), **kept}


def answer(body: bytes, pause: Pause) -> list[Message]:
    """The one message of an answer."""
    value: Any = {"output": _streamed(body, pause)} if looks_streamed(body) else content.value_of(body)
    parts: list[Part] = []
    for item in content.objects(value.get("output")) if isinstance(value, dict) else ():
        parts += message(item)["parts"]
    return [content.message("assistant", parts)] if parts else []


def _part(value: Any) -> Part:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("input_text", "output_text", "text", "summary_text", "reasoning_text") and isinstance(
        value.get("text"), str
    ):
        return content.text(value["text"])
    if kind == "refusal" and isinstance(value.get("refusal"), str):
        return content.text(value["refusal"])
    if kind == "input_image":
        return content.media("image", value.get("image_url"), value.get("file_id"))
    if kind == "input_file":
        return content.media("document", value.get("file_data", value.get("file_url")), value.get("file_id"))
    if kind == "input_audio" and isinstance(audio := value.get("input_audio"), dict):
        return content.blob("audio", f"audio/{audio.get('format', 'wav')}", audio.get("data"))
    return content.odd(value)


def _item(kind: str, value: dict[str, Any]) -> list[Part]:
    call_id = value.get("call_id", value.get("id"))
    if kind in ("function_call", "custom_tool_call"):
        return [content.tool_call(call_id, value.get("name"), value.get("arguments", value.get("input")))]
    if kind == "reasoning":
        thoughts = content.objects(value.get("summary")) + content.objects(value.get("content"))
        return [content.reasoning(content.said(one.get("text", ""))) for one in thoughts]
    if kind in _SERVER:
        kept = {name: one for name, one in value.items() if name not in _LARGE and name not in ("id", "type")}
        return [content.server_tool("server_tool_call", value.get("id"), kind.removesuffix("_call"), kept)]
    if kind.endswith(_RESULTS):
        said = value.get("output")
        told = content.texts(said)
        response = told if told is not None else [_part(one) for one in said] if isinstance(said, list) else said
        return [content.tool_result(call_id, response)]
    return [content.odd({name: one for name, one in value.items() if name not in _LARGE})]


def _streamed(body: bytes, pause: Pause) -> list[Any]:
    """The items of a streamed answer: as its last event has them, else as far as they came."""
    found: dict[str, dict[str, Any]] = {}
    pieces: dict[str, list[tuple[str, str]]] = {}
    for event in content.events(body, pause):
        at, item, kind = str(event.get("output_index", 0)), event.get("item"), str(event.get("type"))
        response, delta = event.get("response"), event.get("delta")
        if isinstance(response, dict) and isinstance(response.get("output"), list) and response["output"]:
            return response["output"]  # type: ignore[no-any-return] # a list, as was asked
        if isinstance(item, dict):
            found[at] = item
            pieces.pop(at, None)
        elif kind in _GROWS and isinstance(delta, str):
            pieces.setdefault(at, []).append((_GROWS[kind], delta))
    return [_grown(item, pieces.get(at, [])) for at, item in found.items()]


def _grown(item: dict[str, Any], pieces: list[tuple[str, str]]) -> dict[str, Any]:
    whole: dict[str, str] = {}
    for field, more in pieces:
        whole[field] = whole.get(field, "") + more
    if "text" in whole:
        item = {**item, "content": [{"type": "output_text", "text": whole["text"]}]}
    if "thought" in whole:
        item = {**item, "summary": [{"type": "summary_text", "text": whole["thought"]}]}
    return {**item, **{field: whole[field] for field in ("arguments", "input") if field in whole}}


FAMILY = Family(asked, message, system, tool, answer)
