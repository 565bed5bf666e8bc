"""Reads what a Responses request says in its parts: input items, tools, and what lies at the provider already.

Invariant: each part is read once and remembered by its bytes (history.Memo); items that a client may drop when it goes
on (thoughts, the provider's own tool calls, references) are no link of the chain. What never enters: an answer, HTTP.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.core.errors import Undecodable
from gateway.core.tools import looks_like_error
from gateway.core.types import Hosted, Result
from gateway.core.wire.body import Edit, Fields, decode_strict, insertion, integer, strict_inside, text
from gateway.core.wire.history import Digest, answer_hash, canonical, growth, message_hash, text_hash

# The API refuses a smaller max_output_tokens (wire-formats.md section 1).
LEAST_OUTPUT = 16

_JSON = msgspec.json.Decoder()
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")

# Items by which the model calls a tool that the client runs; their results end in `_output` and carry the same call_id.
CALLS = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "computer_call",
        "tool_search_call",
    }
)

# "Tools": what the API runs itself; True where the API counts it as built-in, so that max_tool_calls caps it. It names
# MCP apart from its built-in tools.
_HOSTED = {
    "web_search": True,
    "file_search": True,
    "code_interpreter": True,
    "image_generation": True,
    "tool_search": True,
    "mcp": False,
}
_CLIENT_RUN = ("function", "custom", "computer", "local_shell", "shell", "apply_patch")


class Offer(Digest, frozen=True):
    """A part of a request that offers tools: names that the client runs, and what the provider runs."""

    names: tuple[str, ...] = ()
    hosted: tuple[Hosted, ...] = ()


def read_item(raw: bytes) -> Offer:
    """One item of `input`. Raises Undecodable where it isn't an object."""
    item = _JSON.decode(raw)
    if not isinstance(item, dict):
        raise Undecodable("Each item of `input` must be an object.")
    kind = item.get("type")
    kind = kind if isinstance(kind, str) else "message"
    images, media, media_bytes, unseen = _media(item)
    names: list[str] = []
    if kind in ("additional_tools", "tool_search_output"):
        _offer(item.get("tools"), names, [])
    call_id = _id(item)
    mine = not kind.startswith("tool_search") or item.get("execution") == "client"
    called = mine and kind in CALLS
    results = (_result(item, call_id),) if mine and kind.endswith("_output") and call_id else ()
    role = item.get("role")
    return Offer(
        hash=_link(item, kind, call_id) if mine else 0,
        role=role if isinstance(role, str) else "",
        answer=called or role == "assistant",
        ids=(call_id,) if call_id and (called or results) else (),
        results=results,
        images=images,
        media=media,
        media_bytes=media_bytes,
        extra_bytes=growth(raw),
        unseen=unseen or kind == "item_reference",
        system=kind == "message" and role in ("system", "developer"),
        names=tuple(names),
    )


def read_prompt(raw: bytes) -> Offer:
    """`input` as a plain string: one message of the user."""
    return Offer(hash=message_hash("user", _JSON.decode(raw)), role="user", extra_bytes=growth(raw))


def _id(item: dict[str, Any]) -> str:
    for name in ("call_id", "id"):
        value = item.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _link(item: dict[str, Any], kind: str, call_id: str) -> int:
    """The canonical hash of an item; 0 where it is no link."""
    if kind == "message":
        role = item.get("role")
        if role == "assistant":
            return answer_hash(said_in(item), ())
        return message_hash(role if isinstance(role, str) else "", item.get("content"))
    if kind in CALLS:
        return answer_hash("", (call_id,))
    if kind.endswith("_output") and call_id:
        return message_hash(kind, [call_id, {"output": item.get("output")}])
    return 0


def said_in(item: dict[str, Any]) -> str:
    """The text of a message item, as it passes and as it is quoted: string or parts, refusals included."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = (part.get("refusal") if part.get("type") == "refusal" else part.get("text") for part in parts)
    return "".join(said for said in texts if isinstance(said, str))


def _result(item: dict[str, Any], call_id: str) -> Result:
    output = item.get("output", item.get("tools"))
    said = canonical(output)
    return Result(
        tool_call_id=call_id,
        name=None,
        is_error=looks_like_error(_words(output)),
        digest=text_hash(said),
        size_bytes=len(said),
        position=0,
    )


def _words(output: Any) -> str:
    if isinstance(output, list):
        output = next((part.get("text") for part in output if isinstance(part, dict) and part.get("text")), "")
    return output if isinstance(output, str) else ""


def _media(item: dict[str, Any]) -> tuple[int, bool, int, bool]:
    """(images, other media, their base64 bytes, input that is not here), wherever parts may stand in an item."""
    images, media, size, unseen = 0, False, 0, False
    parts: list[Any] = [item]
    for name in ("content", "output"):
        value = item.get(name)
        parts += value if isinstance(value, list) else [value]
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_image", "computer_screenshot"):
            images += 1  # at most so much, wherever it lies
            size += _inline(part.get("image_url"))
        elif kind == "image_generation_call":
            images += 1
            size += len(part["result"]) if isinstance(part.get("result"), str) else 0
        elif kind in ("input_file", "input_audio", "input_video"):
            media = True
            data = part.get("file_data")
            size += _inline(data)
            unseen = unseen or kind != "input_file" or not isinstance(data, str)
    return images, media, size, unseen


def _inline(url: Any) -> int:
    """Bytes of base64 in a data URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return 0
    head = url[:200].find(";base64,")
    return len(url) - head - 8 if head >= 0 else 0


def read_tools(raw: bytes) -> Offer:
    """The `tools` array. Raises Undecodable where it isn't one, or a tool could be read in two ways."""
    tools = decode_strict(raw)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Undecodable("`tools` must be an array of objects.")
    names: list[str] = []
    hosted: list[Hosted] = []
    _offer(tools, names, hosted)
    return Offer(names=tuple(names), hosted=tuple(hosted))


def _offer(tools: Any, names: list[str], hosted: list[Hosted]) -> None:
    for tool in tools if isinstance(tools, list) else []:
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type")
        kind = kind if isinstance(kind, str) else ""
        name = tool.get("name")
        if kind == "namespace":
            _offer(tool.get("tools"), names, hosted)
        elif kind.startswith(_CLIENT_RUN) and not _in_container(tool):
            names.append(name if isinstance(name, str) else kind)
        elif kind == "tool_search" and tool.get("execution") == "client":
            names.append("tool_search_call")
        else:
            hosted.append(_hosted(kind))


def _in_container(tool: dict[str, Any]) -> bool:
    """A shell runs with the client, or in a container of the provider."""
    place = tool.get("environment")
    kind = place.get("type") if isinstance(place, dict) else None
    return isinstance(kind, str) and kind.startswith("container")


def _hosted(kind: str) -> Hosted:
    for name, cappable in _HOSTED.items():
        if kind.startswith(name):
            return Hosted(name, None, cappable)
    return Hosted(kind, None, kind == "shell")


def hosted_of(offer: Offer, uses: int | None) -> tuple[Hosted, ...]:
    """The provider's own tools under `max_tool_calls`, which caps them all together: each may use it up."""
    return tuple(Hosted(tool.kind, uses if tool.cappable else None, tool.cappable) for tool in offer.hosted)


def beside(fields: Fields) -> list[Hosted]:
    """What else makes the provider work on its own, beyond the limits of a request. Measured in the recorded traffic:
    with `reasoning.mode` "pro" 20 tokens of text were billed as 1,549."""
    out = []
    raw = fields.get("reasoning")
    reasoning = strict_inside(raw, "reasoning") if raw is not None else None
    mode = text(reasoning, "mode") if reasoning is not None else None
    if mode not in (None, "standard"):
        out.append(Hosted(f"reasoning_{mode}", None, False))
    if fields.get("context_management") not in (None, b"[]"):
        out.append(Hosted("compaction", None, False))
    return out


def previous_of(fields: Fields) -> str | None:
    """The response or conversation that this request goes on from."""
    previous = text(fields, "previous_response_id")
    if previous is not None:
        return previous
    raw = fields.get("conversation")
    if raw is None:
        return None
    conversation = strict_inside(raw, "conversation")
    return text(conversation, "id") if conversation is not None else text(fields, "conversation")


def session_of(fields: Fields) -> str | None:
    """A cache key that is a UUID stands for one session; many apps send a constant (design.md section 3)."""
    key = text(fields, "prompt_cache_key")
    return key if key is not None and _UUID.fullmatch(key) else None


def limited(fields: Fields, limit: int) -> list[Edit]:
    """The edit that sets `max_output_tokens`. Raises Undecodable (402) below the least that the API takes."""
    asked = integer(fields, "max_output_tokens")
    if asked is not None and asked <= limit:
        return []
    if limit < LEAST_OUTPUT:
        raise Undecodable(
            f"The budget pays for {limit} output tokens, and this API takes no limit below {LEAST_OUTPUT}. "
            "Don't retry; finish with what you have, or have the budget raised.",
            status=402,
            code="insufficient_quota",
        )
    return [_set(fields, "max_output_tokens", limit, False)]


def capped(fields: Fields, caps: int, more: bool) -> list[Edit]:
    """The edit that sets `max_tool_calls` where it is absent; `more`: another edit adds a field, too."""
    if fields.get("max_tool_calls") is not None:
        return []
    return [_set(fields, "max_tool_calls", caps, more)]


def _set(fields: Fields, name: str, value: int, more: bool) -> Edit:
    span = fields.spans.get(name)
    if span is not None:
        return (*span, str(value).encode())
    return insertion(fields, name, str(value).encode(), more)
