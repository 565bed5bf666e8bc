"""What is remembered of a run: joins tool calls with their results as core/tools.py does, in bounded space."""

from __future__ import annotations

from typing import Any

from gateway.core import tools
from gateway.core.telemetry.spans import notes
from gateway.core.telemetry.spans.notes import Closed, Note
from gateway.core.types import Exchange, Result, ToolCall
from tests.ledgers import exchange


def asking(call: str, at: float, *ids: str, name: str = "f") -> Exchange:
    """An answer that asks for tools."""
    return exchange(call, 1, started_at=at, ended_at=at + 1, tool_calls=[ToolCall(one, name, digest=7) for one in ids])


def telling(call: str, at: float, *ids: str, digest: int = 9, name: str | None = None) -> Exchange:
    """A request that brings results."""
    found = [Result(one, name, False, digest, 1, 0) for one in ids]
    return exchange(call, 1, started_at=at, ended_at=at + 1, results=found)


def joined(calls: list[Exchange]) -> list[Closed]:
    """All tool calls with their ends, the note written down and read again between any two calls."""
    note, found = Note(), []
    for call in calls:
        found += notes.close(note, call)
        found += notes.hold(note, notes.asked(call, {}))
        note = notes.decode(notes.encode(note))
    return found + notes.end(note, 1e9)


def same(calls: list[Exchange]) -> None:
    """The note's join is the one of the API."""
    here = sorted(
        (one.tool.step, one.tool.position, one.tool.id, one.tool.asked_at, None if one.result is None else one.at,
         one.repeated)
        for one in joined(calls)
    )  # fmt: skip
    there = sorted(
        (one.step, one.position, one.id, one.started_at, one.ended_at, one.repeated) for one in tools.spans(calls)
    )
    assert there == here


def test_a_result_closes_its_call():
    """R-100: from the end of the answer that asked to the start of the request that brought it."""
    (one,) = joined([asking("c1", 0.0, "t1"), telling("c2", 5.0, "t1")])
    assert (1.0, 5.0, False) == (one.tool.asked_at, one.at, one.repeated)
    assert one.result is not None


def test_the_join_is_the_one_of_the_api():
    """Ids that repeat, several in one answer, results sent again, calls that never end, names without ids."""
    same([asking("c1", 0, "t1", "t2"), telling("c2", 5, "t2", "t1")])
    same([asking("c1", 0, "t1"), telling("c2", 5, "t1"), asking("c3", 7, "t1"), telling("c4", 9, "t1")])
    same([asking("c1", 0, "t1"), asking("c2", 3, "t1"), telling("c3", 5, "t1"), telling("c4", 8, "t1")])
    same([asking("c1", 0, "t1", "t1"), telling("c2", 5, "t1", "t1")])
    same([asking("c1", 0, "t1"), telling("c2", 5, "t1"), telling("c3", 8, "t1")])
    same([asking("c1", 0, "", name="g"), asking("c2", 2, "", name="h"), telling("c3", 5, "", name="g")])
    same([asking("c1", 0, "t1"), telling("c2", 0.5, "t1"), telling("c3", 5, "t1")])  # before it was asked for


def test_the_join_is_the_one_of_the_api_on_random_runs():
    """Any order of asking and telling with few ids."""
    import random

    chance = random.Random(5)
    for _ in range(200):
        calls: list[Exchange] = []
        for turn in range(chance.randint(1, 12)):
            ids = [f"t{chance.randint(0, 2)}" for _ in range(chance.randint(0, 3))]
            one: Any = asking(f"c{turn}", turn * 2.0, *ids)
            one.results = telling("x", 0, *[f"t{chance.randint(0, 2)}" for _ in range(chance.randint(0, 2))]).results
            calls.append(one)
        same(calls)


def test_a_step_that_repeats_is_told():
    """Same tool, arguments and result as before; another result is none."""
    again = [asking("c1", 0, "a"), telling("c2", 2, "a"), asking("c3", 4, "b"), telling("c4", 6, "b")]
    assert [False, True] == [one.repeated for one in joined(again)]
    again[3] = telling("c4", 6, "b", digest=10)
    assert [False, False] == [one.repeated for one in joined(again)]


def test_open_tool_calls_are_bounded():
    """A run that asks without end: the oldest are given up as unfinished, none is lost."""
    note = Note()
    gone = notes.hold(note, notes.asked(asking("c1", 0, *[f"t{n}" for n in range(500)]), {}))
    assert (notes.OPEN_MOST, 500 - notes.OPEN_MOST) == (len(note.open), len(gone))
    assert "t0" == gone[0].tool.id and gone[0].result is None


def test_steps_in_mind_are_bounded():
    """A long run forgets its oldest steps."""
    note = Note()
    for n in range(600):
        notes.hold(note, notes.asked(asking(f"c{n}", n, "t"), {}))
        notes.close(note, telling("x", n + 1.0, "t", digest=n))
    assert notes.SEEN_MOST == len(note.seen)
    assert len(notes.encode(note)) < 4096


def test_an_episode_begins_with_nothing_of_the_one_before():
    """But in the same trace, with the tool calls that are still open."""
    note = Note(trace_id="a", providers=["x"], error="429", events=[("e", 1.0, {})], first="q", closed=1)
    notes.begin(note, 2, 50.0)
    assert ("a", 2, 50.0, [], "", [], None, 1) == (
        note.trace_id, note.episode, note.episode_at, note.providers, note.error, note.events, note.first, note.closed
    )  # fmt: skip
