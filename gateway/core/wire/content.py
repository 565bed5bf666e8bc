"""What the three families of wire formats share when their messages become `{role, parts}` (telemetry contract, 4).

Invariant: nothing raises, whatever stands in a body: what isn't understood becomes one `text` part, as it stands; media
are named and measured, never kept (nobody can redact a picture). What never enters: redaction, a store, hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from gateway.core.sse import Splitter, data_of

Part = dict[str, Any]
Message = dict[str, Any]

BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Pause = Callable[[], None]  # lets others have the interpreter
REST_EVERY: Final = 64  # events
MOST_EVENTS: Final = 200_000
_ROLES: Final = MappingProxyType(
    {name: name for name in ("system", "user", "assistant", "tool")}
    | {"developer": "system", "function": "tool", "model": "assistant"}
)
_BOM: Final = b"\xef\xbb\xbf"
_any = msgspec.json.Decoder().decode
_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode


class Body(Struct):
    """The fields of a request that hold content, of any family, as they stand."""

    messages: Raw = Raw(b"")
    prompt: Raw = Raw(b"")
    system: Raw = Raw(b"")
    instructions: Raw = Raw(b"")
    input: Raw = Raw(b"")
    tools: Raw = Raw(b"")
    functions: Raw = Raw(b"")


class Asked(Struct, frozen=True):
    """A request's content: raw JSON values, so that those that are known need not be read."""

    system: bytes = b""
    messages: tuple[bytes, ...] = ()
    tools: tuple[bytes, ...] = ()


class Family(Struct, frozen=True):
    """How one family reads. asked: a request apart; message, system, tool: one decoded value of it; answer: a body,
    whole or streamed."""

    asked: Callable[[Body], Asked]
    message: Callable[[Any], Message]
    system: Callable[[Any], list[Part]]
    tool: Callable[[Any], Part]
    answer: Callable[[bytes, Pause], list[Message]]


_body = msgspec.json.Decoder(Body).decode


def read_body(body: bytes) -> Body:
    """The fields of a request; none where it is no JSON object."""
    try:
        return _body(body.removeprefix(_BOM))
    except BROKEN:
        return Body()


def value_of(raw: bytes) -> Any:
    """A JSON value; a text of its bytes where it is none."""
    try:
        return _any(raw)
    except BROKEN:
        return raw.decode("utf-8", "replace")


def items(raw: Raw | bytes) -> tuple[bytes, ...]:
    """The values of a list as they stand; a single value is a list of one."""
    stands = bytes(raw)
    if not stands or stands == b"null":
        return ()
    try:
        return tuple([bytes(one) for one in _list(stands)])
    except BROKEN:
        return (stands,)


def events(body: bytes, pause: Pause) -> Iterator[dict[str, Any]]:
    """The data of a stream's events that are JSON objects, with a rest now and then."""
    splitter = Splitter()
    for number, event in enumerate([*splitter.feed(body), splitter.tail()], 1):
        if number % REST_EVERY == 0:
            pause()
        data = data_of(event)
        if data.startswith(b"{") and number <= MOST_EVENTS:
            value = value_of(data)
            if isinstance(value, dict):
                yield value


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it isn't one."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def said(value: Any) -> str:
    """A value as a text: itself, or its JSON."""
    return value if isinstance(value, str) else _encode(value).decode("utf-8", "replace")


def message(role: Any, parts: list[Part]) -> Message:
    """A message; who isn't known by the contract speaks as the user."""
    return {"role": _ROLES.get(role, "user") if isinstance(role, str) else "user", "parts": parts}


def odd(value: Any) -> Part:
    """What isn't understood, as it stands."""
    return text(said(value))


def text(content: str) -> Part:
    """What was written."""
    return {"type": "text", "content": content}


def reasoning(content: str) -> Part:
    """What was thought aloud."""
    return {"type": "reasoning", "content": content}


def tool_call(call_id: Any, name: Any, arguments: Any) -> Part:
    """What a model asks to have done; arguments that are JSON stand as their values."""
    if isinstance(arguments, str) and arguments[:1] in "{[":
        arguments = value_of(arguments.encode("utf-8", "replace"))
    return _known({"type": "tool_call", "id": call_id, "name": said(name or ""), "arguments": arguments})


def tool_result(call_id: Any, response: Any) -> Part:
    """What came of it."""
    part = _known({"type": "tool_call_response", "id": call_id})
    return {**part, "response": response}


def server_tool(kind: str, call_id: Any, name: Any, value: Any) -> Part:
    """A tool that the provider ran itself (server_tool_call), or what came of it (server_tool_call_response)."""
    part = {"type": kind, "id": call_id, "name": name if kind == "server_tool_call" else None, kind: value}
    return _known(part)


def media(modality: str, url: Any = None, file_id: Any = None, mime: Any = None) -> Part:
    """A picture, a sound, a document: where it is, or how large it was."""
    if isinstance(file_id, str):
        return {"type": "file", "modality": modality, "file_id": file_id}
    if isinstance(url, str) and not url.startswith("data:"):
        return _known({"type": "uri", "modality": modality, "uri": url, "mime_type": mime})
    held = url if isinstance(url, str) else ""
    if held.startswith("data:"):
        mime = held[5:105].partition(";")[0] or mime
    return blob(modality, mime, held.partition(",")[2])


def blob(modality: str, mime: Any, base64: Any) -> Part:
    """Media that stood in the body: its size is kept, its content isn't."""
    size = len(base64) * 3 // 4 if isinstance(base64, str) else 0
    return _known({"type": "blob", "modality": modality, "mime_type": mime, "content": "", "size_bytes": size})


def texts(value: Any) -> str | None:
    """A list of texts as one; None where something else is among them."""
    found = objects(value)
    if not found or any(one.get("type") not in _TEXTS or not isinstance(one.get("text"), str) for one in found):
        return None
    return "\n".join(one["text"] for one in found)


_TEXTS: Final = frozenset({"text", "input_text", "output_text"})


def _known(part: Part) -> Part:
    return {name: value for name, value in part.items() if value is not None}
