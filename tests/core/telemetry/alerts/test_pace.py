"""Claims about the pace of a run: when it is above an hourly limit, when below, and that little is kept."""

from __future__ import annotations

from gateway.core.telemetry.alerts.pace import IDLE_S, MOST_RUNS, Pace, Paces
from gateway.core.types import NUSD

LIMIT = 10 * NUSD


def above_after(per_h: float, every_s: float = 5.0, most_s: float = 3600.0) -> float | None:
    """Seconds until a run that spends steadily is known to be above the limit."""
    paces, at = Paces(LIMIT), 0.0
    while at <= most_s:
        at += every_s
        if paces.spend("R", int(per_h * NUSD * every_s / 3600), at) is not None:
            return at
    return None


def test_fifty_dollars_an_hour_are_known_within_two_minutes() -> None:
    """R-092, with no budget configured; $12/h within a quarter of an hour, $9.50/h never."""
    fast, slow, never = above_after(50), above_after(12), above_after(9.5)
    assert fast is not None and slow is not None
    assert 60 < fast <= 120
    assert 300 < slow <= 900
    assert never is None


def test_one_call_is_no_pace() -> None:
    """Unless it alone costs what an hour may; a pause of an hour makes the next one the first again."""
    paces = Paces(LIMIT)
    assert paces.spend("R", 9 * NUSD, 0.0) is None
    assert paces.spend("R", NUSD, 1.0) is not None
    assert paces.spend("S", 11 * NUSD, 0.0) == 110 * NUSD
    paces.sweep(IDLE_S + 2)
    assert paces.spend("R", 9 * NUSD, IDLE_S + 3) is None


def test_it_falls_with_time_and_wavering_is_not_slow() -> None:
    """Below half of the limit it is over; between the two it is neither above nor over."""
    paces = Paces(LIMIT)
    paces.spend("R", NUSD, 0.0)
    assert paces.spend("R", NUSD, 0.0) == 20 * NUSD
    assert not paces.slow("R", 300.0)  # $8.70 an hour
    assert paces.slow("R", 500.5)  # less than $5
    assert paces.slow("nobody", 0.0)


def test_a_clock_that_steps_back_raises_no_pace() -> None:
    """Entries of several processes are not all in the order of their instants."""
    pace = Pace(0, 100.0)
    pace.spend(NUSD, 200.0)
    pace.spend(NUSD, 150.0)
    assert (2 * NUSD, 200.0) == (pace.recent_nusd, pace.at)


def test_what_is_kept_is_bounded_and_forgotten() -> None:
    """At most so many runs, the latest; a run that ended or rests is let go, and said to be gone."""
    paces = Paces(LIMIT)
    for number in range(MOST_RUNS + 3):
        paces.spend(f"r{number}", 1, float(number))
    assert MOST_RUNS == sum(pace is not None for pace in paces.take().values())
    paces.forget("r7")
    assert {"r7": None} == paces.take()
    paces.sweep(MOST_RUNS + IDLE_S + 3)
    assert MOST_RUNS - 1 == len(paces.take())


def test_a_pace_goes_on_where_it_was() -> None:
    """What a notebook kept counts on after a restart."""
    paces = Paces(LIMIT)
    paces.spend("R", NUSD // 2, 0.0)
    again = Paces(LIMIT, {run: pace for run, pace in paces.take().items() if pace is not None})
    assert again.spend("R", NUSD // 2 + NUSD // 10, 1.0) is not None
