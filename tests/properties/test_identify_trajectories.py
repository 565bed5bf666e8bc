"""Claims about recorded agent runs that come without any id: kept whole, never merged."""

from __future__ import annotations

import pytest

from tests.replay import (
    Answering,
    Order,
    Spelling,
    at_random,
    in_turns,
    one_by_one,
    plain,
    replay,
    respelled,
    streamed,
    trimmed,
    whole,
)

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("order", [one_by_one, in_turns, at_random])
@pytest.mark.parametrize(
    ("spelling", "answering"), [(plain, whole), (plain, streamed), (trimmed, whole), (respelled, streamed)]
)
def test_recorded_runs_are_kept_whole_and_apart(order: Order, spelling: Spelling, answering: Answering) -> None:
    """At least 95 % of the 534 runs keep all their calls in one run, and no run holds calls of two."""
    outcome = replay(order, spelling, answering)
    outcome.say(f"{order.__name__}, {spelling.__name__}, {answering.__name__}")
    assert [] == outcome.merged
    assert outcome.whole >= 0.95
