"""Tells runs apart whose answers are equal: by what was asked in them and by what their tools said.

Invariant: the run that a call truly continues is always alike, so what is alike to one run only is that run's. Equal
answers are real: several models do one task at once, and providers give out `call_0` again in every conversation.
What never enters: a run's name, the maps of `index`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.core.types import Call, Lineage, Result, ToolCall
from gateway.core.wire.history import text_hash

MOST = 16  # tool results and tool calls by which runs are told apart
MOST_BODY_BYTES = 4 * 1024 * 1024  # a larger body is not taken apart for this: its call begins a new run


class Turn(Struct, frozen=True):
    """One call and its answer, as the walk or the journal knows it."""

    line: Lineage
    model: str
    links: Sequence[int]
    tools: Sequence[ToolCall]
    results: Sequence[Result]  # those new in the request


class Latest(Struct, frozen=True):
    """A run's latest answer in one conversation, and what led to it; digests only, newest first."""

    answer: int
    model: str
    system: int
    results: tuple[int, ...]  # what tools said
    asked: tuple[int, ...]  # arguments of tool calls
    fresh: int  # how many of `asked` are of this answer


def after(turn: Turn, before: Latest | None) -> Latest:
    """What is known once this turn is over."""
    results = tuple([result.digest for result in reversed(turn.results)]) if turn.results else ()
    asked = tuple([tool.digest for tool in reversed(turn.tools)]) if turn.tools else ()
    if before is not None:
        results = (results + before.results)[:MOST]
        asked = (asked + before.asked)[:MOST]
    last = turn.links[-1] if turn.links else 0
    return Latest(last, turn.model, turn.line.system, results, asked, len(turn.tools))


def seen_alike(latest: Latest, call: Call) -> bool:
    """Was the same model asked in the same way, and had it seen the same tool results, as far back as both tell?"""
    line = call.lineage
    if (latest.answer, latest.model, latest.system) != (line.last_answer, call.model, line.system):
        return False
    until = line.answers[-1] if line.answers else 0
    quoted = (result.digest for result in reversed(call.results) if result.position < until)
    return all(one == other for one, other in zip(latest.results, quoted, strict=False))


def asked_alike(latest: Latest, said: set[int], whole: bool) -> bool:
    """Does the request quote the arguments that this run's tool calls had? All of them if its history is `whole`, else
    those of the latest answer. `said`: from `said_in`."""
    return said.issuperset(latest.asked if whole else latest.asked[: latest.fresh])


def said_in(body: bytes) -> set[int]:
    """Digests of all strings of a JSON body, in whatever format: arguments are strings, where ids are not unique.

    Decodes the body, which costs milliseconds: only for the rare call that several runs could have made.
    """
    if len(body) > MOST_BODY_BYTES:
        return set()
    try:
        left: list[Any] = [msgspec.json.decode(body)]
    except (msgspec.DecodeError, RecursionError):
        return set()
    found: set[int] = set()
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.add(text_hash(value))
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            left.extend(value.values())
    return found
