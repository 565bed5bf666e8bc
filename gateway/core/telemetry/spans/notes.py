"""What spans need to know of a run between two batches of the journal: its trace, its episode, its open tool calls.

Invariant: a note is bounded however long its run lasts; what it forgets makes a span less exact, never a sum. What
never enters: texts, money (the ledger's own totals come with a run's end).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from gateway.core.types import Exchange, Result

OPEN_MOST: Final = 128  # tool calls of one run that wait for a result
SEEN_MOST: Final = 256  # steps of tools that are remembered to tell repeats
PROVIDERS_MOST: Final = 4  # more than one, and the root names none
EVENTS_MOST: Final = 32  # thresholds and the like, kept for the root


class OpenTool(Struct, omit_defaults=True):
    """A tool call that an answer asked for and no result closed yet."""

    call_id: str
    position: int  # within that answer
    id: str
    name: str
    step: int
    asked_at: float  # the end of the answer that asked
    siblings: int = 1  # tool calls of that answer: with more than one, nobody knows which began when
    digest: int = 0
    known: bool = True
    valid: bool | None = None
    arguments: str | None = None  # only where content was captured, and the destination opted in


class Closed(Struct):
    """A tool call with the result that closed it; result None: its run ended first."""

    tool: OpenTool
    at: float
    result: Result | None
    repeated: bool = False


class Note(Struct, omit_defaults=True):
    """One run, between two batches."""

    trace_id: str = ""  # "": no call of it was seen yet
    episode: int = 1
    episode_at: float = 0.0
    closed: int = 0  # the episode whose root was made; a kill of an ended run makes no second one
    closed_at: float = 0.0  # a call that had begun before belongs to that episode, whenever it ends
    at: float = 0.0  # of the last entry that changed it: the oldest notes are forgotten first
    open: list[OpenTool] = []
    seen: list[int] = []
    providers: list[str] = []
    error: str = ""  # error.type of its last failed call
    events: list[tuple[str, float, dict[str, Any]]] = []
    first: str | None = None  # what the run was asked first, and what it said last: opted-in content
    last: str | None = None


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Note).decode


def begin(note: Note, episode: int, at: float) -> None:
    """Another episode of the run."""
    note.episode, note.episode_at, note.at = episode, at, at
    note.providers, note.error, note.events = [], "", []
    note.first = note.last = None


def asked(call: Exchange, arguments: dict[str, str | None]) -> list[OpenTool]:
    """The tool calls of an answer."""
    many = len(call.tool_calls)
    found = []
    for position, tool in enumerate(call.tool_calls):
        one = OpenTool(call.call_id, position, tool.id, tool.name, call.step, call.ended_at, siblings=many)
        one.digest, one.known, one.valid, one.arguments = tool.digest, tool.known, tool.valid, arguments.get(tool.id)
        found.append(one)
    return found


def hold(note: Note, tools: list[OpenTool]) -> list[Closed]:
    """Lets them wait for their results; gives those that must make room, as unfinished."""
    note.open += tools
    excess = max(0, len(note.open) - OPEN_MOST)
    gone, note.open = note.open[:excess], note.open[excess:]
    return unfinished(gone, 0.0)


def unfinished(tools: list[OpenTool], at: float) -> list[Closed]:
    """Tool calls whose results nobody saw until this instant."""
    return [Closed(tool, max(at, tool.asked_at), None) for tool in tools]


def close(note: Note, call: Exchange) -> list[Closed]:
    """Closes what the results of a request belong to: the latest answer's open call of that id that ended before the
    request began, the first where one answer used the id twice (the rule of core/tools.py)."""
    found = []
    for result in call.results:
        tool = _opened(note, result, call.started_at)
        if tool is None:
            continue
        note.open.remove(tool)
        step = hash_of(tool, result)
        repeated = step in note.seen
        if not repeated:
            note.seen.append(step)
            del note.seen[:-SEEN_MOST]
        found.append(Closed(tool, call.started_at, result, repeated))
    return found


def end(note: Note, at: float) -> list[Closed]:
    """All that is open, as unfinished: the run has ended."""
    left, note.open = note.open, []
    note.seen = []
    return unfinished(left, at)


def hash_of(tool: OpenTool, result: Result) -> int:
    """One step of a tool: what was called with what, and what came of it."""
    return xxh3_64_intdigest(f"{tool.name}\0{tool.digest}\0{result.digest}".encode("utf-8", "surrogatepass"))


def _opened(note: Note, result: Result, at: float) -> OpenTool | None:
    # Gemini may leave ids out: then the name and the order join (wire-formats.md section 5)
    def fits(tool: OpenTool) -> bool:
        return tool.id == result.tool_call_id if result.tool_call_id else not tool.id and tool.name == result.name

    fitting = [tool for tool in note.open if tool.asked_at <= at and fits(tool)]
    if not fitting:
        return None
    latest = max(fitting, key=lambda tool: tool.asked_at).call_id
    return next(tool for tool in fitting if tool.call_id == latest)
