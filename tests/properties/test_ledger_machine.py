"""Any order of events: memory, SQLite and plain sums agree, and the invariants hold after every step.

Invariant: 2,000 random lives of 50 steps here, 100,000 of 25 in `make test-long` (ledger.md section 13, 1), each of one
process or of two on the same file. What never enters: real time, a second clock.
"""

from __future__ import annotations

import pytest

from tests.properties.shards import on_all_cores

LIVES, STEPS = 2_000, 50
LONG_LIVES, LONG_STEPS = 100_000, 18


@pytest.mark.timeout(1200)
def test_any_order_of_events_keeps_the_ledgers_equal(capsys: pytest.CaptureFixture[str]) -> None:
    """Every answer, account and run is the same in memory, in the file and in plain sums, after every step."""
    did = on_all_cores(LIVES, STEPS)
    with capsys.disabled():
        print(f"\nledger machine: {did}")
    assert did["lives"] >= LIVES and did["steps"] >= LIVES * STEPS


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_any_order_of_many_more_events_keeps_the_ledgers_equal(capsys: pytest.CaptureFixture[str]) -> None:
    """The same with fifty times as many lives."""
    did = on_all_cores(LONG_LIVES, LONG_STEPS)
    with capsys.disabled():
        print(f"\nledger machine: {did}")
    assert did["lives"] >= LONG_LIVES and did["steps"] >= LONG_LIVES * LONG_STEPS
