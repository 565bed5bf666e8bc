"""Tool spans: joins the tool calls of one answer with the results that a later request of the same run brings.

Invariant: a span is keyed by (run, call that asked, position, id), because ids repeat within real runs; history that
is sent again closes nothing. What never enters: the texts of arguments and results (digests tell what is equal).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.core.types import Call, Exchange, Result, ToolCall

_SHELL = ": command not found"


class _Verdict(msgspec.Struct):
    """The three names under which tools say in JSON that they failed (http.md section 4)."""

    error: Any = None
    is_error: Any = None
    camel: Any = msgspec.field(default=None, name="isError")


_DECODER = msgspec.json.Decoder(_Verdict)


class ToolSpan(msgspec.Struct):
    """One tool call from the answer that asked for it to the request that brought its result."""

    call_id: str  # the call whose answer asked; with position and id the span's key within its run
    position: int  # of the tool call within that answer
    id: str
    name: str
    step: int
    started_at: float  # the end of the answer that asked
    ended_at: float | None = None  # the start of the request that brought the result; None: not seen yet
    duration_ms: int | None = None
    is_error: bool = False
    repeated: bool = False  # same name, arguments and result as an earlier span of this run


class _Open(msgspec.Struct):
    """A span that waits for its result."""

    span: ToolSpan
    tool: ToolCall
    turn: int


def fresh(call: Call) -> list[Result]:
    """The results that are new in this request: those after the last answer that it quotes."""
    if not call.results:
        return []
    line = call.lineage
    answers = line.answers
    last = answers[-1] if answers else -1
    if last >= 0 and last == len(line.chain) - 1:
        # a prefilled answer (Anthropic) stands behind the results that it is to go on from
        last = answers[-2] if len(answers) > 1 else -1
    return [result for result in call.results if result.position > last]


def spans(exchanges: Iterable[Exchange]) -> list[ToolSpan]:
    """The tool spans of one run, by step and position."""
    known = list(exchanges)
    # What happened in order of time: an exchange brings results when it starts and asks for tools when it ends. The
    # turn decides between equal instants, results first.
    moments = sorted(
        [(exchange.started_at, turn, 0) for turn, exchange in enumerate(known) if exchange.results]
        + [(exchange.ended_at, turn, 1) for turn, exchange in enumerate(known) if exchange.tool_calls]
    )
    found: list[ToolSpan] = []
    waiting: dict[str, list[_Open]] = {}
    seen: set[tuple[str, int, int]] = set()
    for _, turn, asks in moments:
        exchange = known[turn]
        if asks:
            _ask(exchange, turn, found, waiting)
            continue
        for result in exchange.results:
            _close(result, exchange.started_at, waiting, seen)
    return sorted(found, key=lambda span: (span.step, span.position))


def _ask(exchange: Exchange, turn: int, found: list[ToolSpan], waiting: dict[str, list[_Open]]) -> None:
    for position, tool in enumerate(exchange.tool_calls):
        span = ToolSpan(exchange.call_id, position, tool.id, tool.name, exchange.step, exchange.ended_at)
        found.append(span)
        waiting.setdefault(_key(tool.id, tool.name), []).append(_Open(span, tool, turn))


def _key(tool_call_id: str, name: str | None) -> str:
    # Gemini may leave ids out: then the name and the order join (wire-formats.md section 5)
    return f"id {tool_call_id}" if tool_call_id else f"name {name}"


def _close(result: Result, at: float, waiting: dict[str, list[_Open]], seen: set[tuple[str, int, int]]) -> None:
    """Closes the latest answer's open call of that id, the first where one answer used it twice."""
    opened = waiting.get(_key(result.tool_call_id, result.name))
    if not opened:
        return
    turn = opened[-1].turn
    at_first = next(place for place, one in enumerate(opened) if one.turn == turn)
    one = opened.pop(at_first)
    span = one.span
    span.ended_at = at
    span.duration_ms = max(0, round((at - span.started_at) * 1000))
    span.is_error = result.is_error
    what = (span.name, one.tool.digest, result.digest)
    span.repeated = what in seen
    seen.add(what)


def looks_like_error(text: str) -> bool:
    """Does a tool result say that the tool failed? For formats without a flag of their own (http.md section 4)."""
    text = text.lstrip()
    head = text[:40].lower()
    if head.startswith("error"):
        # a word: `Error: x` and `error` are, `Errors` and `error_count` are not
        return len(head) == 5 or not (head[5].isalnum() or head[5] == "_")
    if head.startswith(("exception:", "traceback (most recent call last)")):
        return True
    if head.startswith("{"):
        return _json_says_error(text)
    line = text.find("\n")
    tail = text[max(0, line - 40) : line] if line >= 0 else text[-40:]
    return tail.rstrip().lower().endswith(_SHELL)


def _json_says_error(text: str) -> bool:
    if "rror" not in text and "\\u" not in text:
        return False
    try:
        said = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        # Python tools write NaN and Infinity into their JSON, and lone surrogates; only then is it worth a second look
        return _loose_says_error(text)
    return bool(said.error or said.is_error or said.camel)


def _loose_says_error(text: str) -> bool:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and any(said.get(name) for name in ("error", "is_error", "isError"))
