"""Reads one message and one tool list of a chat request: what `history.Memo` remembers of them.

Invariant: an assistant message hashes as chat_answer hashed it when it passed through; unknown content parts count as
media (bounded by the context window), never as nothing. What never enters: the request around a message, money.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from gateway.core.errors import Undecodable
from gateway.core.tools import looks_like_error
from gateway.core.types import Hosted, Result
from gateway.core.wire.body import decode_strict
from gateway.core.wire.history import Digest, answer_hash, distinct, growth, message_hash, prose_ids, text_hash

_TEXT_PARTS = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning", "reference"}
)
_IMAGES = frozenset({"image_url", "image", "input_image"})
_OWN_TOOLS = frozenset({"function", "custom"})


class _Media(Struct):
    images: int = 0
    other: bool = False
    unseen: bool = False
    bytes: int = 0


class Offer(Struct, frozen=True):
    """What a tool list offers."""

    names: tuple[str, ...] = ()
    hosted: tuple[Hosted, ...] = ()
    extra_bytes: int = 0


def read_message(raw: bytes) -> Digest:
    """A chat message as far as we act on it. Raises Undecodable where it is no object or repeats a key."""
    message = decode_strict(raw)
    if not isinstance(message, dict):
        raise Undecodable("`messages` must hold objects.")
    role = message.get("role")
    role = role if isinstance(role, str) else ""
    content = message.get("content")
    media = _Media()
    if isinstance(content, list):
        for part in content:
            _weigh(part, media)
    marks, ids = _calls(message)
    called = message.get("tool_call_id")
    if isinstance(called, str) and called:
        ids = [*ids, called]
    answer = role == "assistant"
    return Digest(
        hash=answer_hash(text_of(content), marks) if answer else message_hash(_who(message, role), content),
        role=role,
        answer=answer,
        ids=distinct([*ids, *prose_ids(raw)]),
        results=_results(message, role, content),
        images=media.images,
        media=media.other,
        media_bytes=media.bytes,
        extra_bytes=growth(raw),
        unseen=media.unseen,
        system=role in ("system", "developer"),
    )


def _who(message: dict[str, Any], role: str) -> str:
    called = message.get("tool_call_id")
    return f"{role} {called}" if isinstance(called, str) else role


def text_of(content: Any) -> str:
    """The text of a message's content: the string, or its text parts joined; thoughts are no part of it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(_text_of_part(part) for part in content)


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "input_text", "output_text"):
        return ""
    words = part.get("text")
    return words if isinstance(words, str) else ""


def _calls(message: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What identifies an answer's tool calls (id, else name), and the ids alone."""
    marks: list[str] = []
    ids: list[str] = []
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, dict):
            continue
        function = call.get("function") or call.get("custom")
        name = function.get("name") if isinstance(function, dict) else None
        id_ = call.get("id")
        if isinstance(id_, str) and id_:
            ids.append(id_)
        if isinstance(name, str) and name:
            marks.append(id_ if isinstance(id_, str) and id_ else name)
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and isinstance(name := legacy.get("name"), str) and name:
        marks.append(name)
    return marks, ids


def _results(message: dict[str, Any], role: str, content: Any) -> tuple[Result, ...]:
    """The result that a `tool` message, or one of the older `function` role, brings."""
    if role not in ("tool", "function"):
        return ()
    name = message.get("name")
    name = name if isinstance(name, str) else None
    id_ = message.get("tool_call_id") if role == "tool" else name
    words = text_of(content)
    size = len(words) if words.isascii() else len(words.encode("utf-8", "surrogatepass"))
    return (Result(id_ if isinstance(id_, str) else "", name, looks_like_error(words), text_hash(words), size, 0),)


def result_at(result: Result, position: int) -> Result:
    """The same result at its place in the request."""
    return Result(result.tool_call_id, result.name, result.is_error, result.digest, result.size_bytes, position)


def _weigh(part: Any, media: _Media) -> None:
    """Media of a content part: counted, and its base64 taken out of the bound by bytes."""
    if not isinstance(part, dict):
        return
    kind = part.get("type", "text")
    if kind in _TEXT_PARTS:
        return
    if kind in _IMAGES:
        media.images += 1
    else:
        media.other = True
    body = part.get(kind) if isinstance(kind, str) else None
    held = _payload(part) + _payload(body)
    media.bytes += held
    # a URL, a file id or anything else that is not here: only an image is bounded by its kind
    media.unseen |= held == 0 and kind not in _IMAGES


def _payload(value: Any) -> int:
    """Bytes of base64 in the places where chat formats put media: image_url.url, input_audio.data, file.file_data."""
    if isinstance(value, str):
        head = value[:200].find(";base64,") if value.startswith("data:") else -1
        return len(value) - head - 8 if head >= 0 else 0
    if not isinstance(value, dict):
        return 0
    size = 0
    for name in ("url", "file_data"):
        size += _payload(value.get(name)) if isinstance(value.get(name), str) else 0
    data = value.get("data")  # plain base64 (input_audio), without a header
    if isinstance(data, str) and data.isascii() and " " not in data:
        size += len(data)
    return size


def read_tools(raw: bytes) -> Offer:
    """A tool list: the names on offer, and the tools that the provider runs itself."""
    tools = decode_strict(raw)
    if not isinstance(tools, list):
        raise Undecodable("`tools` must be an array.")
    names: list[str] = []
    hosted: list[Hosted] = []
    for tool in tools:
        if not isinstance(tool, dict):
            raise Undecodable("`tools` must hold objects.")
        kind = tool.get("type")
        if isinstance(kind, str) and kind not in _OWN_TOOLS:
            # chat formats have no field that caps them
            hosted.append(Hosted(kind))
            continue
        inner = tool.get("function") or tool.get("custom") or tool  # `functions` of old holds the function itself
        name = inner.get("name") if isinstance(inner, dict) else None
        if isinstance(name, str):
            names.append(name)
    return Offer(tuple(names), tuple(hosted), growth(raw))
