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


ORDERS = (one_by_one, in_turns, at_random)
WAYS = ((plain, whole), (plain, streamed), (trimmed, whole), (respelled, streamed))
SHORT = ((one_by_one, plain, whole), (in_turns, respelled, streamed), (at_random, trimmed, whole))
ALL = [
    pytest.param(order, *way, marks=() if (order, *way) in SHORT else pytest.mark.long)
    for order in ORDERS
    for way in WAYS
]


@pytest.mark.parametrize(("order", "spelling", "answering"), ALL)
def test_recorded_runs_are_kept_whole_and_apart(order: Order, spelling: Spelling, answering: Answering) -> None:
    """At least 95 % of the 534 runs keep all their calls in one run, and no run holds calls of two."""
    outcome = replay(order, spelling, answering)
    outcome.say(f"{order.__name__}, {spelling.__name__}, {answering.__name__}")
    assert [] == outcome.merged
    assert outcome.whole >= 0.95
