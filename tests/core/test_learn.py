"""Tests of core/learn.py."""

from __future__ import annotations

import pytest

from gateway.core.learn import ENOUGH, KEPT, Learned


def told(learned: Learned, *outputs: int, run: str = "r", model: str = "m", thought: int = 0) -> Learned:
    for output in outputs:
        learned.note(run, model, output, output * 4, thought)
    return learned


def test_nothing_is_said_before_ten_answers():
    """Strict until then (design.md section 2)."""
    learned = told(Learned(), *range(1, ENOUGH))
    assert None is learned.likely("r", "m")
    assert 10 == told(learned, 10).likely("r", "m")


@pytest.mark.parametrize(("count", "likely"), [(10, 10), (19, 19), (20, 19), (40, 38), (60, 57)])
def test_the_rank_is_the_nearest(count: int, likely: int):
    """95 of 100 lie at or below it: of ten all, of twenty all but one."""
    assert likely == told(Learned(), *range(count, 0, -1)).likely("r", "m")


def test_each_run_and_model_learns_for_itself():
    """Another model writes otherwise, another run works on something else."""
    learned = told(told(Learned(), *[50] * 10), *[900] * 10, model="n")
    assert (50, 900, None, None) == tuple(learned.likely(*pair) for pair in ("rm", "rn", "sm", "ro"))


@pytest.mark.parametrize(("output", "seen", "thought"), [(500, 4000, 1), (500, 0, 0), (500, 800, 0)])
def test_who_thinks_out_of_sight_is_left_to_the_worst_case(output: int, seen: int, thought: int):
    """What can't be counted as it passes can't be topped up in time: told thoughts, or fewer bytes than text has."""
    learned = told(Learned(), *[500] * 10)
    learned.note("r", "m", output, seen, thought)
    assert None is learned.likely("r", "m")
    assert 500 == told(learned, *[500] * KEPT).likely("r", "m"), "it is forgotten with the answers before"


def test_a_short_answer_is_mostly_framing():
    """A tool call of a few bytes is no sign of thoughts."""
    learned = told(Learned(), *[20] * 9)
    learned.note("r", "m", 40, 12, 0)
    assert 40 == learned.likely("r", "m")


def test_memory_is_bounded():
    """The runs that were heard of last are kept, and of each its newest answers."""
    learned = Learned(most=2)
    for run in ("a", "b", "a", "c"):
        told(learned, *[7] * 10, run=run)
    assert (2, 7, None, 7) == (len(learned), *(learned.likely(run, "m") for run in "abc"))
    assert 1 == told(learned, *[900] * 5, *[1] * KEPT, run="a").likely("a", "m")
