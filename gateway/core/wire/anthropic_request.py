"""Reads what an Anthropic request says in its parts: messages, system, tools, and where a limit may be lowered.

Invariant: each part is read once and remembered by its bytes (history.Memo); nothing is kept but digests, names and
numbers. What never enters: an answer, HTTP, a price.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.errors import Undecodable
from gateway.core.types import Hosted, Result
from gateway.core.wire.body import Edit, Fields, insertion, integer, read_list, read_object, strict_inside, text
from gateway.core.wire.history import Digest, answer_hash, canonical, growth, message_hash, text_hash
from gateway.core.wire.tally import spelled_in

# "Extended thinking": budget_tokens must be at least 1,024 and below max_tokens.
LEAST_THINKING = 1024
# What a lowered thinking budget leaves for the text of the answer, where the limit has room for both.
TEXT_ROOM = 256

# "Server tools": the API runs these itself; the rest of the typed tools (bash, text_editor, computer, memory) is run by
# the client. The flag says whether `max_uses` caps it.
_HOSTED = {
    "web_search": True,
    "web_fetch": True,
    "advisor": True,
    "code_execution": False,
    "tool_search": False,
    "mcp_toolset": False,
}
# "Stop reasons", pause_turn: the API ends its own loop after 10 iterations; a tool search has no other cap, and no fee.
SEARCHES = 10
_CLIENT_RUN = ("custom", "bash", "text_editor", "computer", "memory", "browser_toolset")

_JSON = msgspec.json.Decoder()
_ESCAPED = (b"\\u005", b"\\u006", b"\\u007")


class Offer(Digest, frozen=True):
    """A part of a request that offers tools: names that the client runs, and what the provider runs."""

    names: tuple[str, ...] = ()
    hosted: tuple[Hosted, ...] = ()
    sets: bool = False  # a toolset brings names that the request does not list


def read_message(raw: bytes) -> Offer:
    """One message of `messages`. Raises Undecodable where it isn't an object with a role."""
    message = _JSON.decode(raw)
    if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
        raise Undecodable("Each of `messages` must be an object with a `role`.")
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    ids = tuple(
        name
        for block in blocks
        if isinstance(name := block.get("id") if block.get("type") == "tool_use" else block.get("tool_use_id"), str)
    )
    if role == "assistant":
        # thoughts and the provider's own tools are left out: a client may drop them when it quotes the answer
        said = content if isinstance(content, str) else "".join(_text(b) for b in blocks if b.get("type") == "text")
        calls = [block.get("id") for block in blocks if block.get("type") == "tool_use"]
        link = answer_hash(said, [name for name in calls if isinstance(name, str)])
    else:
        link = message_hash(role, content)
    images, media, media_bytes, unseen = _media(content)
    return Offer(
        hash=link,
        role=role,
        answer=role == "assistant",
        ids=ids,
        results=tuple(_result(block) for block in blocks if block.get("type") == "tool_result"),
        images=images,
        media=media,
        media_bytes=media_bytes,
        extra_bytes=growth(raw),
        unseen=unseen,
        cache_write=cache_write(raw),
        system=role == "system",
        names=tuple(_added(blocks)),
    )


def _added(blocks: list[dict[str, Any]]) -> list[str]:
    """Tools that a message adds in the middle of a conversation."""
    tools = [block.get("tool") for block in blocks if block.get("type") == "tool_addition"]
    names = [tool.get("name") for tool in tools if isinstance(tool, dict)]
    return [name for name in names if isinstance(name, str)]


def _text(block: dict[str, Any]) -> str:
    said = block.get("text")
    return said if isinstance(said, str) else ""


def _result(block: dict[str, Any]) -> Result:
    content = block.get("content")
    if isinstance(content, list):
        said = canonical(content)
    else:
        said = (content if isinstance(content, str) else "").encode("utf-8", "surrogatepass")
    name = block.get("tool_use_id")
    return Result(
        tool_call_id=name if isinstance(name, str) else "",
        name=None,
        is_error=block.get("is_error") is True,  # http.md section 4: the flag is believed
        digest=text_hash(said),
        size_bytes=len(said),
        position=0,
    )


def _media(content: Any) -> tuple[int, bool, int, bool]:
    """(images, other media, their base64 bytes, input that is not here), in results and documents too."""
    images, media, size, unseen = 0, False, 0, False
    open_: list[Any] = [content]
    while open_:
        value = open_.pop()
        if isinstance(value, list):
            open_ += value
            continue
        if not isinstance(value, dict):
            continue
        source, kind = value.get("source"), value.get("type")
        if isinstance(source, dict) and kind in ("image", "document", "container_upload"):
            images += kind == "image"
            where = source.get("type")
            data = source.get("data")
            if where == "base64" and isinstance(data, str):
                size += len(data)
            media = media or (kind != "image" and where not in ("text", "content"))
            # an image has the same greatest size wherever it lies; a document may fill the window
            unseen = unseen or (kind != "image" and where in ("url", "file"))
            open_.append(source.get("content"))
        elif kind == "container_upload":
            media = unseen = True
        open_.append(value.get("content"))
    return images, media, size, unseen


def read_system(raw: bytes) -> Digest:
    """The system prompt, a string or text blocks."""
    return Digest(hash=message_hash("system", _JSON.decode(raw)), system=True, cache_write=cache_write(raw))


def read_tools(raw: bytes) -> Offer:
    """The `tools` array. Raises Undecodable where a tool could be read in two ways."""
    names: list[str] = []
    hosted: list[Hosted] = []
    sets = False
    for item in read_list(raw, "tools"):
        tool = strict_inside(item, "tools")
        if tool is None:
            raise Undecodable("Each of `tools` must be an object.")
        kind = text(tool, "type") or "custom"
        name = text(tool, "name")
        sets = sets or "toolset" in kind
        if kind.startswith(_CLIENT_RUN):
            names += [name] if name else []
            continue
        hosted.append(_hosted(kind, tool))
    return Offer(names=tuple(names), hosted=tuple(hosted), sets=sets, cache_write=cache_write(raw))


def _hosted(kind: str, tool: Fields) -> Hosted:
    for name, cappable in _HOSTED.items():
        if kind.startswith(name):
            uses = integer(tool, "max_uses") if cappable else SEARCHES if name == "tool_search" else None
            return Hosted("mcp" if name == "mcp_toolset" else name, uses, cappable)
    return Hosted(kind.partition("_20")[0], None, False)  # a tool of tomorrow: nobody knows who runs it


def beside(fields: Fields) -> list[Hosted]:
    """What else makes the provider work on its own: MCP servers, other models after a refusal, compaction."""
    out = []
    if fields.get("mcp_servers") not in (None, b"[]"):
        out.append(Hosted("mcp", None, False))
    if fields.get("fallbacks") not in (None, b"[]"):
        out.append(Hosted("fallback", None, False))
    if fields.get("compaction") is not None or b'"compact_' in (fields.get("context_management") or b""):
        out.append(Hosted("compaction", None, False))
    return out


def cache_write(raw: bytes) -> str:
    """The dearest cache write that a part may cause. Errs to the dear side: words in a text count, too."""
    if b"\\u00" in raw and any(sign in raw for sign in _ESCAPED):
        return "1h"  # letters written as escapes: nobody does that unless to hide a word
    if b'"cache_control"' not in raw and b'"caching"' not in raw:
        return ""
    return "1h" if b'"1h"' in raw else "5m"


def session_of(fields: Fields) -> str | None:
    """The session that Claude Code writes into `metadata.user_id` (design.md section 3)."""
    raw = fields.get("metadata")
    metadata = strict_inside(raw, "metadata") if raw is not None else None
    try:
        user = text(metadata, "user_id") if metadata is not None else None
    except Undecodable:
        return None  # the provider will say what is wrong with it
    if user is None:
        return None
    if user.startswith("{"):
        try:
            said = _JSON.decode(user)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None
        found = said.get("session_id") if isinstance(said, dict) else None
        return found if isinstance(found, str) and found else None
    return user.rpartition("_session_")[2] if "_session_" in user else None


def thinking_of(fields: Fields) -> Fields | None:
    """The `thinking` object if it sets a budget."""
    raw = fields.get("thinking")
    thinking = strict_inside(raw, "thinking") if raw is not None else None
    return thinking if thinking is not None and thinking.get("budget_tokens") is not None else None


def lowered(fields: Fields, limit: int) -> list[Edit]:
    """The edits that set `max_tokens` and make a thinking budget fit below it. Raises Undecodable (402) if none can."""
    asked = integer(fields, "max_tokens")
    if asked is not None and asked <= limit:
        return []
    value = str(limit).encode()
    span = fields.spans.get("max_tokens")
    edits = [(*span, value) if span is not None else insertion(fields, "max_tokens", value)]
    thinking = thinking_of(fields)
    if thinking is None:
        return edits
    budget = integer(thinking, "budget_tokens") or 0
    if budget < limit:
        return edits
    if limit <= LEAST_THINKING:
        raise Undecodable(
            f"The budget pays for {limit} output tokens, and thinking needs more than {LEAST_THINKING}. Don't retry "
            "as it is; send the request without thinking, or have the budget raised.",
            status=402,
            code="insufficient_quota",
        )
    start = fields.spans["thinking"][0]
    first, last = thinking.spans["budget_tokens"]
    fitting = max(LEAST_THINKING, min(budget, limit - TEXT_ROOM))
    return [*edits, (start + first, start + last, str(fitting).encode())]


def capped(fields: Fields, caps: int) -> list[Edit]:
    """The edits that give every tool of the provider which knows `max_uses` that cap, where it has none."""
    raw = fields.get("tools")
    if raw is None:
        return []
    items = read_list(raw, "tools")
    edits: list[Edit] = []
    for item, start in zip(items, spelled_in(fields.spans["tools"][0], raw, items), strict=True):
        tool = read_object(item)
        found = _hosted(text(tool, "type") or "custom", tool)
        if not found.cappable or found.uses is not None:
            continue
        span = tool.spans.get("max_uses")
        first, last, value = (
            (*span, str(caps).encode()) if span is not None else insertion(tool, "max_uses", str(caps).encode())
        )
        edits.append((start + first, start + last, value))
    return edits
