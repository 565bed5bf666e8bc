"""Claims about the outbox: repeats that grow, an order within each alert, a bound whose loss is counted and said."""

from __future__ import annotations

from itertools import pairwise

from gateway.core.telemetry.alerts.episodes import Message
from gateway.core.telemetry.alerts.outbox import GIVE_UP_S, LONGEST_S, MOST_ROWS, Outbox, Row, delay_s


def message(number: int = 1, alert: str = "al_1", alertname: str = "burn_rate", at: float = 100.0) -> Message:
    """One message."""
    return Message(f"msg_{alert}_{number}", alert, alertname, "warning", {}, {"summary": "s"}, "firing", at, None, at)


def put(outbox: Outbox, one: Message, at: float = 100.0) -> list[tuple[str, int]]:
    """Adds it; for each channel how many were left out for it."""
    return [(row.channel, row.left_out) for row, _ in outbox.add(one, at)]


def due(outbox: Outbox, now: float = 100.0, busy: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(channel, message id) of what would be sent."""
    return [(row.channel, row.message.message_id) for row in outbox.due(now, busy)]


def test_each_channel_has_a_row_and_a_busy_one_holds_up_no_other():
    """A row leaves when its channel took it."""
    outbox = Outbox(["a", "b"])
    assert [("a", 0), ("b", 0)] == put(outbox, message())
    assert [("a", "msg_al_1_1"), ("b", "msg_al_1_1")] == due(outbox)
    assert [("b", "msg_al_1_1")] == due(outbox, busy=("a",))
    row = outbox.find("b", "msg_al_1_1")
    assert row is not None
    outbox.sent(row)
    assert [("a", "msg_al_1_1")] == due(outbox)
    assert ([], None) == (outbox.waiting("b"), outbox.next_at(("a",)))


def test_repeats_come_first_within_five_seconds_and_then_later_and_later():
    """http.md section 5; never more than an hour apart, and given up after a day."""
    outbox = Outbox(["a"])
    put(outbox, message())
    (row,) = outbox.waiting("a")
    now, delays = 100.0, []
    while outbox.failed(row, "it answered 500", now):
        delays.append(row.due_at - now)
        assert [] == due(outbox, row.due_at - 0.01)
        assert 1 == len(due(outbox, row.due_at))
        now = row.due_at
    assert 3 <= delays[0] <= 5
    assert all(1.5 * before < after or after > 0.8 * LONGEST_S for before, after in pairwise(delays))
    assert max(delays) <= LONGEST_S
    assert GIVE_UP_S <= now - 100.0 <= GIVE_UP_S + LONGEST_S
    assert (30, "it answered 500") < (row.attempts, row.last_error)
    assert {"row/a/msg_al_1_1": None} == outbox.take()


def test_the_spread_of_the_repeats_is_the_rows_own():
    """The same row waits for the same time wherever it is computed; others wait a little differently."""
    rows = [Row(message(number), "a", 0.0, 0.0, attempts=1) for number in range(50)]
    assert [delay_s(row) for row in rows] == [delay_s(row) for row in rows]
    assert 40 < len({delay_s(row) for row in rows})


def test_nobody_hears_of_an_end_before_its_beginning():
    """While the first message of an alert waits for its repeat, its later ones wait too; other alerts don't."""
    outbox = Outbox(["a"])
    put(outbox, message(1))
    put(outbox, message(2))
    put(outbox, message(1, "al_2"))
    (first, *_) = outbox.waiting("a")
    outbox.failed(first, "x", 100.0)
    assert [("a", "msg_al_2_1")] == due(outbox)
    assert first.due_at == outbox.next_at(()) or 100.0 == outbox.next_at(())
    outbox.sent(first)
    assert [("a", "msg_al_1_2")] == due(outbox)


def test_a_full_outbox_drops_the_oldest_of_the_same_kind_and_counts_it():
    """What came instead says how many; other kinds are left alone while there is one of the same."""
    outbox = Outbox(["a"])
    put(outbox, message(1, "al_price", "price_unknown"))
    for number in range(MOST_ROWS - 1):
        put(outbox, message(1, f"al_{number}"))
    (full,) = outbox.add(message(1, "al_next"), 200.0)
    assert (1, ["msg_al_0_1"]) == (full[0].left_out, [old.message.message_id for old in full[1]])
    for number in range(3 * MOST_ROWS):
        put(outbox, message(1, f"al_more{number}"))
    rows = outbox.waiting("a")
    assert MOST_ROWS == len(rows)
    assert "price_unknown" == rows[0].message.alertname
    assert 1 + 3 * MOST_ROWS == sum(row.left_out for row in rows)
    (other,) = outbox.add(message(1, "al_down", "provider_down"), 300.0)
    assert ["msg_al_price_1"] == [old.message.message_id for old in other[1]]  # none of its kind: the oldest of all


def test_what_was_taken_goes_on_and_after_a_start_all_of_it_is_due():
    """In the order in which it was put in; a channel that is gone is not waited for."""
    outbox = Outbox(["a", "gone"])
    put(outbox, message(1), 100.0)
    put(outbox, message(1, "al_0"), 101.0)
    for row in outbox.waiting("a"):
        outbox.failed(row, "x", 105.0)
    rows = [row for row in outbox.take().values() if row is not None]
    again = Outbox(["a", "b"], reversed(rows))
    assert [] == due(again, 106.0)
    again.wake(106.0)
    assert [("a", "msg_al_1_1")] == due(again, 106.0)
    assert (100.0, []) == (again.oldest_at(), again.waiting("gone"))
