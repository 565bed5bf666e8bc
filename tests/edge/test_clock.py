"""edge/clock.py: ids are unique and sort by time; the monotonic clock doesn't step back."""

from __future__ import annotations

import time

import pytest

from gateway.edge.clock import SystemClock, last_id


def test_ids_are_unique_and_safe_in_a_path() -> None:
    """26 letters after the prefix, none of them special."""
    clock = SystemClock()
    ids = [clock.new_id("call") for _ in range(5000)]
    assert 5000 == len(set(ids))
    assert {31} == {len(each) for each in ids}
    assert all(each.startswith("call_") and each[5:].isalnum() and each.isascii() for each in ids)


def test_ids_sort_by_the_millisecond_of_their_making(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the wall clock steps back: the last millisecond is kept."""
    clock = SystemClock()
    made = []
    for ms in (1_700_000_000_000, 1_700_000_000_001, 1_600_000_000_000, 1_700_000_000_002, 1_900_000_000_000):
        monkeypatch.setattr(time, "time_ns", lambda ms=ms: ms * 1_000_000)
        made.append(clock.new_id("x")[:12])
    assert made == sorted(made)
    assert made[1] == made[2] and made[0] < made[1] < made[3] < made[4]


def test_mono_never_steps_back_and_now_is_the_wall() -> None:
    """Two clocks for two purposes."""
    clock = SystemClock()
    first = clock.mono()
    assert clock.mono() >= first
    assert abs(clock.now() - time.time()) < 5


def test_an_instant_stands_between_ids_made_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind those of its own millisecond, before those of the next."""
    clock = SystemClock()
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_900_000)
    same = clock.new_id("call")
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_124_000_000)
    later = clock.new_id("call")
    assert same < last_id("call", 1_700_000_000.1239) < later
