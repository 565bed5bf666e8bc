"""Gathers what a Responses answer says, from its events or from its whole body: usage, output items, status.

Invariant: a whole body and a stream of the same answer give the same Reply; the items of the last event win over those
that were gathered on the way. What never enters: framing, the request's bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.core.refusal import details
from gateway.core.types import Call, Refusal, Reply, ToolCall, Usage
from gateway.core.wire import openai_usage
from gateway.core.wire.history import answer_hash, text_hash
from gateway.core.wire.openai_usage import whole_number
from gateway.core.wire.responses_request import CALLS, said_in
from gateway.core.wire.told import tells_all

# What `tools` must name for image generation to be priced; the API's own default where it names none.
IMAGE_MODEL = "gpt-image-1"
OPEN = frozenset({"queued", "in_progress"})

_JSON = msgspec.json.Decoder()
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Kinds of output items that are uses of the provider's own tools, under the names that requests have for them.
_USES = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "mcp_call": "mcp",
    "tool_search_call": "tool_search",
}
# The text of an item that came in one piece, without deltas.
_SPOKEN = {"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}


class Event(Struct):
    """One event of a stream; what is large and rare stays raw."""

    type: str = ""
    delta: str | None = None
    output_index: int = 0
    sequence_number: int = 0
    item: Raw = Raw(b"")
    response: Raw = Raw(b"")
    error: Raw = Raw(b"")
    code: str | None = None


class Response(Struct):
    """The response object, without the echo of the request that makes most of it."""

    id: Any = None
    object: Any = None
    created_at: Any = None
    model: Any = None
    status: Any = None
    service_tier: Any = None
    usage: Any = None
    tool_usage: Any = None
    incomplete_details: Any = None
    error: Any = None
    output: Any = None
    background: Any = None


RESPONSE = msgspec.json.Decoder(Response)


class Item(Struct):
    """What is kept of an output item."""

    kind: str
    call: ToolCall | None = None
    link: int = 0


class Gathered:
    """An answer as far as it has come."""

    __slots__ = ("_call", "_counted", "_fresh", "_items", "_offered", "ended", "error", "output_bytes", "response")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._offered: frozenset[str] | None = call.edits
        self._items: dict[int, Item] = {}
        self._counted: set[int] = set()  # items whose text came in deltas
        self._fresh = bytearray()
        self.response = Response()
        self.error: str | None = None
        self.ended = False
        self.output_bytes = 0

    def take(self) -> str:
        """Visible output since the last `take`."""
        said = self._fresh.decode("utf-8", "replace")
        self._fresh.clear()
        return said

    def say(self, index: int, piece: str) -> None:
        """Visible output: text, thoughts, tool arguments."""
        raw = piece.encode("utf-8", "surrogatepass")
        self.output_bytes += len(raw)
        self._fresh += raw
        self._counted.add(index)

    def open(self, index: int, item: Any) -> None:
        """output_item.added: a tool call that may never be finished."""
        if isinstance(item, dict):
            self._items[index] = self._read(item, closed=False)

    def close(self, index: int, item: Any) -> None:
        """output_item.done; a text that came without deltas is counted here."""
        if not isinstance(item, dict):
            return
        self._items[index] = self._read(item, closed=True)
        if index not in self._counted:
            said = item.get(_SPOKEN.get(self._items[index].kind, "")) or said_in(item)
            if isinstance(said, str) and said:
                self.say(index, said)

    def know(self, response: Response) -> None:
        """A response object: the first ones name the model, the last one has everything."""
        known = self.response
        for name in response.__struct_fields__:
            if getattr(response, name) is None:
                setattr(response, name, getattr(known, name))
        self.response = response
        if isinstance(response.output, list) and response.output:
            items = [self._read(item, closed=True) for item in response.output if isinstance(item, dict)]
            self._items = dict(enumerate(items))
        if response.error:
            self.error = openai_usage.error_word(response.error)

    def _read(self, item: dict[str, Any], closed: bool) -> Item:
        kind = item.get("type")
        kind = kind if isinstance(kind, str) else ""
        if kind == "message":
            return Item(kind, link=answer_hash(said_in(item), ()))
        if kind not in CALLS or (kind == "tool_search_call" and item.get("execution") != "client"):
            return Item(kind)
        call_id = item.get("call_id") or item.get("id")
        call_id = call_id if isinstance(call_id, str) else ""
        name = item.get("name")
        name = name if isinstance(name, str) else kind
        said = item.get(_SPOKEN.get(kind, ""))
        given = said if isinstance(said, str) else msgspec.json.encode(_given(item), order="sorted")
        call = ToolCall(
            id=call_id,
            name=name,
            known=self._known(name, kind),
            valid=_is_object(given) if kind == "function_call" and closed else None,
            digest=text_hash(given),
        )
        return Item(kind, call, answer_hash("", (call_id,)))

    def _known(self, name: str, kind: str) -> bool:
        offered = self._offered
        if offered is None or name in offered:
            return True
        # typed tools have no name of their own: local_shell -> local_shell_call, computer_use_preview -> computer_call
        return kind not in _SPOKEN and any(tool.startswith(kind.removesuffix("_call")) for tool in offered)

    def reply(self) -> Reply:
        """What was said so far."""
        response = self.response
        items = [self._items[index] for index in sorted(self._items)]
        status = _string(response.status)
        usage = self._usage(items)
        settled = usage is not None and status not in OPEN
        told = response.usage if isinstance(response.usage, dict) else {}
        model = _string(response.model)
        stated = None
        if settled and self._call.provider.quirks.states_cost:
            stated = openai_usage.stated_nusd(told)
        known = usage is not None and (stated is not None or tells_all(usage, self.output_bytes))
        return Reply(
            model=model,
            response_id=_string(response.id),
            finish_reason=_finish(status, response.incomplete_details),
            usage=usage,
            usage_complete=settled and known,
            ended=self.ended,
            tool_calls=[item.call for item in items if item.call is not None],
            tier=_string(response.service_tier),
            stated_nusd=stated,
            stated_zero_ok=openai_usage.zero_is_meant(told, model, self._call.model),
            output_bytes=self.output_bytes,
            links=tuple(item.link for item in items if item.link),
            error=self.error,
            pending=status in OPEN and (response.background is True or self._call.background),
        )

    def _usage(self, items: list[Item]) -> Usage | None:
        told = self.response.usage
        if not isinstance(told, dict):
            return None
        usage = openai_usage.read_usage(told, self._call.provider.quirks)
        usage.cache_write_1h_tokens = _written_long(told)
        for item in items:
            kind = _USES.get(item.kind)
            if kind is not None and item.call is None:
                usage.uses[kind] = usage.uses.get(kind, 0) + 1
        beside = _part(self.response.tool_usage, "web_search")
        searches = whole_number(beside.get("num_requests"))
        # the bill's own figure: opening a page is a web_search_call, too, and no search
        if searches is not None and (searches or "web_search" in usage.uses):
            usage.uses["web_search"] = searches
        images = _part(self.response.tool_usage, "image_gen")
        came_in, made = whole_number(images.get("input_tokens")), whole_number(images.get("output_tokens"))
        if came_in or made:
            usage.extra.append((IMAGE_MODEL, came_in or 0, made or 0))
        return usage


def gather(call: Call, body: bytes) -> Gathered:
    """Reads a whole body: a response, a compaction, or an error."""
    answer = Gathered(call)
    try:
        response = RESPONSE.decode(body)
    except _BROKEN:
        return answer
    answer.ended = True
    answer.know(response)
    return answer


def decode(raw: Raw | bytes) -> Any:
    """Any JSON value, None where there is none."""
    try:
        return _JSON.decode(raw) if raw else None
    except _BROKEN:
        return None


def failed(known: Response, sequence_number: int, refusal: Refusal) -> bytes:
    """The data of a `response.failed` event with all that official SDKs want of a response."""
    error = {
        "code": refusal.code,
        "message": refusal.message,
        "type": "budget_exceeded" if refusal.code == "insufficient_quota" else refusal.code,
        "details": details(refusal),
    }
    response: dict[str, Any] = {
        "id": _string(known.id) or "resp_cut",
        "object": "response",
        "created_at": known.created_at if isinstance(known.created_at, int | float) else 0,
        "status": "failed",
        "error": error,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": _string(known.model) or "",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }
    return msgspec.json.encode({"type": "response.failed", "sequence_number": sequence_number, "response": response})


def _finish(status: str | None, incomplete: Any) -> str | None:
    reason = incomplete.get("reason") if isinstance(incomplete, dict) else None
    return f"{status}:{reason}" if status and isinstance(reason, str) and reason else status


def _given(item: dict[str, Any]) -> Any:
    """What a call that is no function says: the action of a shell or a computer, the queries of a search."""
    return {name: item[name] for name in ("action", "actions", "arguments", "operation") if name in item}


def _is_object(given: str | bytes) -> bool:
    try:
        return isinstance(_JSON.decode(given or "{}"), dict)
    except (*_BROKEN, UnicodeEncodeError):
        return False


def _written_long(told: dict[str, Any]) -> int | None:
    """Cache writes with the longer lifetime (12 h beside 30 min)."""
    split = _part(_part(told, "input_tokens_details"), "cache_write_tokens_details")
    return whole_number(split.get("ttl_12h_tokens"))


def _part(value: Any, name: str) -> dict[str, Any]:
    part = value.get(name) if isinstance(value, dict) else None
    return part if isinstance(part, dict) else {}


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
