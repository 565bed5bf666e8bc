"""The content of Anthropic's Messages: requests, whole answers, streams.

Invariant: an answer and the same answer quoted in the next request give the same message. What never enters: usage,
signatures of thoughts, a decision what is kept.
"""

from __future__ import annotations

from typing import Any

from gateway.core.wire import content
from gateway.core.wire.content import Asked, Body, Family, Message, Part, Pause
from gateway.core.wire.flow import looks_streamed


def asked(body: Body) -> Asked:
    """What a request holds."""
    return Asked(bytes(body.system), content.items(body.messages), content.items(body.tools))


def message(value: Any) -> Message:
    """One message. One that only brings results of tools is the tools' own."""
    if not isinstance(value, dict):
        return content.message("user", [content.odd(value)])
    said = value.get("content")
    parts = system(said) if said else []
    results = bool(parts) and all(part["type"] == "tool_call_response" for part in parts)
    return content.message("tool" if results else value.get("role"), parts)


def system(value: Any) -> list[Part]:
    """A text, or blocks."""
    if isinstance(value, str):
        return [content.text(value)]
    return [_part(block) for block in value] if isinstance(value, list) else [content.odd(value)]


def tool(value: Any) -> Part:
    """A tool as it is offered."""
    if not isinstance(value, dict):
        return {"type": "function", "name": content.said(value)}
    found = {"type": "function", "name": content.said(value.get("name", value.get("type", "")))}
    if "description" in value:
        found["description"] = value["description"]
    return {**found, "parameters": value["input_schema"]} if "input_schema" in value else found


def answer(body: bytes, pause: Pause) -> list[Message]:
    """The one message of an answer."""
    said: Any = _streamed(body, pause) if looks_streamed(body) else content.value_of(body)
    blocks = said.get("content") if isinstance(said, dict) else said
    return (
        [content.message("assistant", [_part(block) for block in blocks])]
        if isinstance(blocks, list) and blocks
        else []
    )


def _part(block: Any) -> Part:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        return content.odd(block)
    if kind == "text" and isinstance(block.get("text"), str):
        return content.text(block["text"])
    if kind == "thinking" and isinstance(block.get("thinking"), str):
        return content.reasoning(block["thinking"])
    if kind in ("image", "document"):
        return _media(kind, block.get("source"))
    return {"type": kind} if kind == "redacted_thinking" else _tools(kind, block)


def _tools(kind: str, block: dict[str, Any]) -> Part:
    if kind == "tool_use":
        return content.tool_call(block.get("id"), block.get("name"), block.get("input"))
    if kind == "tool_result":
        return content.tool_result(block.get("tool_use_id"), _result(block.get("content")))
    if kind == "server_tool_use":
        return content.server_tool("server_tool_call", block.get("id"), block.get("name"), block.get("input"))
    if kind.endswith("_tool_result"):
        return content.server_tool("server_tool_call_response", block.get("tool_use_id"), None, block.get("content"))
    return content.odd(block)


def _result(said: Any) -> Any:
    told = content.texts(said)
    if told is not None or not isinstance(said, list):
        return said if told is None else told
    return [_part(block) for block in said]


def _media(modality: str, source: Any) -> Part:
    source = source if isinstance(source, dict) else {}
    mime = source.get("media_type")
    if source.get("type") == "text":
        return content.odd(source.get("data"))
    if "data" in source:
        return content.blob(modality, mime, source["data"])
    return content.media(modality, source.get("url"), source.get("file_id"), mime)


_GROWS = {"text_delta": "text", "thinking_delta": "thinking"}


def _streamed(body: bytes, pause: Pause) -> list[dict[str, Any]]:
    """The blocks of a streamed answer, as far as it came."""
    blocks: dict[str, dict[str, Any]] = {}
    pieces: dict[str, list[str]] = {}
    for event in content.events(body, pause):
        at = str(event.get("index", 0))
        block, delta = event.get("content_block"), event.get("delta")
        if event.get("type") == "content_block_start" and isinstance(block, dict):
            blocks[at] = dict(block)
        elif event.get("type") == "content_block_delta" and isinstance(delta, dict) and at in blocks:
            said = delta.get(_GROWS.get(str(delta.get("type")), "partial_json"))
            pieces.setdefault(at, []).append(said if isinstance(said, str) else "")
    for at, block in blocks.items():
        if whole := "".join(pieces.get(at, ())):
            field = "input" if "input" in block else "thinking" if block.get("type") == "thinking" else "text"
            block[field] = content.value_of(whole.encode()) if field == "input" else str(block.get(field) or "") + whole
    return list(blocks.values())


FAMILY = Family(asked, message, system, tool, answer)
