"""Gathers what an Anthropic answer says, from its events or from its whole body: usage, tool calls, stop reason.

Invariant: usage events are cumulative, so each field keeps its last value that isn't null, and nothing is added up; a
whole body and a stream of the same answer give the same Reply. What never enters: framing, the request's bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.core.refusal import details
from gateway.core.types import Refusal, Reply, ToolCall, Usage
from gateway.core.wire.history import answer_hash, text_hash
from gateway.core.wire.told import tells_all

_JSON = msgspec.json.Decoder()

# http.md section 3, after the API's own table of HTTP errors; anything else is an `api_error`.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    408: "timeout_error",
    504: "timeout_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class Delta(Struct):
    """What a content_block_delta or a message_delta carries, as far as we act on it."""

    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class Event(Struct):
    """One event of a stream; the rare large parts stay raw."""

    type: str = ""
    index: int = 0
    delta: Delta | None = None
    message: Raw = Raw(b"")
    content_block: Raw = Raw(b"")
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


class Block(Struct):
    """One content block while it grows."""

    kind: str
    id: str = ""
    name: str = ""
    said: bytearray = msgspec.field(default_factory=bytearray)
    whole: bool = False  # its input came in one piece, not in deltas
    closed: bool = False


class Gathered:
    """An answer as far as it has come. `dearest`: the cache lifetime that the request asked for."""

    __slots__ = (
        "_blocks",
        "_dearest",
        "_fresh",
        "_usage",
        "complete",
        "ended",
        "error",
        "id",
        "model",
        "output_bytes",
        "stop_reason",
    )

    def __init__(self, dearest: str) -> None:
        self._dearest = dearest
        self._blocks: dict[int, Block] = {}
        self._usage: dict[str, Any] = {}
        self._fresh = bytearray()
        self.id: str | None = None
        self.model: str | None = None
        self.stop_reason: str | None = None
        self.error: str | None = None
        self.complete = False  # the usage is the final one
        self.ended = False
        self.output_bytes = 0

    def begin(self, message: dict[str, Any]) -> None:
        """message_start, or a whole body."""
        self.id = _string(message.get("id")) or self.id
        self.model = _string(message.get("model")) or self.model
        self.stop_reason = _string(message.get("stop_reason")) or self.stop_reason
        self.complete = self.merge(message.get("usage")) and self.stop_reason is not None

    def merge(self, usage: Any) -> bool:
        """Later figures replace earlier ones, field by field. Does it tell the output?"""
        if not isinstance(usage, dict):
            return False
        self._usage.update((name, value) for name, value in usage.items() if value is not None)
        return _count(usage, "output_tokens") is not None

    def open(self, index: int, block: Any) -> None:
        """content_block_start, or a block of a whole body."""
        if not isinstance(block, dict):
            return
        grown = Block(
            _string(block.get("type")) or "", _string(block.get("id")) or "", _string(block.get("name")) or ""
        )
        self._blocks[index] = grown
        if grown.kind == "text":
            self.say(index, _string(block.get("text")) or "")
        elif grown.kind == "thinking":
            self.say(index, _string(block.get("thinking")) or "")
        elif block.get("input"):
            self.say(index, msgspec.json.encode(block["input"]).decode())
            grown.whole = True

    def say(self, index: int, piece: str) -> None:
        """Visible output: text, thoughts, tool arguments."""
        if not piece:
            return
        raw = piece.encode("utf-8", "surrogatepass")
        self.output_bytes += len(raw)
        self._fresh += raw
        block = self._blocks.get(index)
        if block is None:
            return
        if block.whole:
            block.said.clear()
            block.whole = False
        block.said += raw

    def close(self, index: int) -> None:
        """content_block_stop."""
        block = self._blocks.get(index)
        if block is not None:
            block.closed = True

    def fail(self, error: Any) -> None:
        """An error in the place of an answer, or in the middle of one."""
        kind = error.get("type") if isinstance(error, dict) else error
        self.error = _string(kind) or "error"

    def take(self) -> str:
        """Visible output since the last `take`."""
        said = self._fresh.decode("utf-8", "replace")
        self._fresh.clear()
        return said

    def input_total(self) -> int | None:
        """All input tokens told so far, cached and cache-written ones included."""
        parts = [
            _count(self._usage, name)
            for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        ]
        told = [part for part in parts if part is not None]
        return sum(told) if told else None

    def reply(self, offered: frozenset[str] | None) -> Reply:
        """What was said so far; `offered` None: which tools were offered can't be told."""
        usage = self._told()
        blocks = self._blocks.values()
        calls = [_call(block, offered) for block in blocks if block.kind == "tool_use"]
        said = b"".join(block.said for block in blocks if block.kind == "text").decode("utf-8", "surrogatepass")
        links = (answer_hash(said, [call.id for call in calls]),) if said or calls else ()
        return Reply(
            model=self.model,
            response_id=self.id,
            finish_reason=self.stop_reason,
            usage=usage,
            usage_complete=self.complete and usage is not None and tells_all(usage, self.output_bytes),
            ended=self.ended,
            tool_calls=calls,
            tier=_string(self._usage.get("service_tier")),
            output_bytes=self.output_bytes,
            links=links,
            error=self.error,
            geo=_string(self._usage.get("inference_geo")),
            speed=_string(self._usage.get("speed")),
        )

    def _told(self) -> Usage | None:
        told = self._usage
        total = self.input_total()
        output = _count(told, "output_tokens")
        if total is None and output is None:
            return None
        written = _count(told, "cache_creation_input_tokens")
        return Usage(
            input_tokens=total,
            output_tokens=output,
            cache_read_tokens=_count(told, "cache_read_input_tokens"),
            cache_write_tokens=written,
            cache_write_1h_tokens=self._written_1h(written),
            reasoning_tokens=_count(_object(told, "output_tokens_details"), "thinking_tokens"),
            uses=self._uses(),
            extra=self._extra(),
        )

    def _written_1h(self, written: int | None) -> int | None:
        """Cache writes at the dearer rate. message_delta may raise the total without the split (wire-formats.md
        section 2): what the split of message_start doesn't cover counts at what the request asked for."""
        split = _object(self._usage, "cache_creation")
        hour = _count(split, "ephemeral_1h_input_tokens")
        if written is None:
            return hour
        loose = written - (hour or 0) - (_count(split, "ephemeral_5m_input_tokens") or 0)
        return (hour or 0) + loose if loose > 0 and self._dearest == "1h" else hour

    def _uses(self) -> dict[str, int]:
        uses: dict[str, int] = {}
        for block in self._blocks.values():
            if block.kind == "server_tool_use":
                kind = _kind(block.name)
                uses[kind] = uses.get(kind, 0) + 1
            elif block.kind == "mcp_tool_use":
                uses["mcp"] = uses.get("mcp", 0) + 1
        for name in _object(self._usage, "server_tool_use"):
            # the bill's own figure counts, also where it is 0: a failed search is free
            count = _count(_object(self._usage, "server_tool_use"), name)
            if count is not None:
                uses[name.removesuffix("_requests")] = count
        return {kind: count for kind, count in uses.items() if count}

    def _extra(self) -> list[tuple[str, int, int]]:
        """Tokens that the top-level fields leave out: compaction and advisor always, a fallback model's where the sums
        say so (wire-formats.md section 4)."""
        entries = self._usage.get("iterations")
        entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        output: dict[str, int] = {}
        for entry in entries:
            kind = _string(entry.get("type")) or ""
            output[kind] = output.get(kind, 0) + (_count(entry, "output_tokens") or 0)
        apart = {"compaction", "advisor_message"}
        if output.get("fallback_message") and _count(self._usage, "output_tokens") == output.get("message", 0):
            apart.add("fallback_message")
        return [
            (_string(entry.get("model")) or self.model or "", _read(entry), _count(entry, "output_tokens") or 0)
            for entry in entries
            if entry.get("type") in apart
        ]


def gather(message: Any, dearest: str) -> Gathered:
    """Reads a whole body."""
    answer = Gathered(dearest)
    if not isinstance(message, dict):
        return answer
    answer.ended = True
    if message.get("type") == "error" or (message.get("error") and "content" not in message):
        answer.fail(message.get("error"))
        return answer
    answer.begin(message)
    answer.complete = answer.merge(message.get("usage"))
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else []):
        answer.open(index, block)
        answer.close(index)
    return answer


def anthropic_error(refusal: Refusal) -> bytes:
    """A refusal as this API spells its errors; also the data of an error event in a stream."""
    error = {
        "type": _TYPES.get(refusal.status, "api_error"),
        "code": refusal.code,
        "message": refusal.message,
        "details": details(refusal),
    }
    return msgspec.json.encode({"type": "error", "error": error})


def _call(block: Block, offered: frozenset[str] | None) -> ToolCall:
    """Arguments are digested in one spelling: a stream and a whole body differ in blanks."""
    valid: bool | None = None
    spelled = bytes(block.said)
    if block.closed:
        try:
            given = _JSON.decode(spelled or b"{}")
            valid = isinstance(given, dict)
            spelled = msgspec.json.encode(given, order="sorted")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            valid = False
    known = offered is None or block.name in offered
    return ToolCall(id=block.id, name=block.name, known=known, valid=valid, digest=text_hash(spelled))


def _kind(name: str) -> str:
    """The tool behind a server_tool_use: code execution and tool search come under several names."""
    if name.endswith("code_execution"):
        return "code_execution"
    return "tool_search" if name.startswith("tool_search") else name


def _read(entry: dict[str, Any]) -> int:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(_count(entry, name) or 0 for name in names)


def _object(told: dict[str, Any], name: str) -> dict[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _count(told: dict[str, Any], name: str) -> int | None:
    """A number of tokens; other kinds of values are not told at all."""
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return int(value)


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
