"""Spelling: exact amounts, tables that fit, and texts of others made harmless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.words import (
    WIDTH,
    ahead,
    amount,
    count,
    harmless,
    instant,
    moment,
    money,
    number,
    seconds,
    span,
    table,
)


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        ("1", "$1.00"),
        ("0.5", "$0.50"),
        ("12345.678901", "$12,345.678901"),
        ("0.000000001", "$0.000000001"),
        ("0", "$0.00"),
        ("-0.25", "$-0.25"),
        (None, "-"),
        ("\x1b[2J", "\\x1b[2J"),
    ],
)
def test_money_shows_cents_or_the_digits_that_matter(usd, said):
    """Round amounts have two digits, small ones as many as they need; what is no amount is harmless."""
    assert said == money(usd)


@given(st.text(max_size=600))
def test_no_text_reaches_the_terminal_with_a_control_character(text):
    """Escapes, bidi overrides and line ends of a model's text are spelled, not obeyed (security.md, console)."""
    assert harmless(text).isprintable()


@given(st.lists(st.tuples(st.text(max_size=200), st.text(max_size=200), st.integers(0, 10**12)), max_size=5))
def test_a_table_fits_into_a_hundred_columns(rows):
    """However long the texts, no line is wider than 100."""
    drawn = table(["NAME", "OTHER", "COUNT"], [[a, b, number(c)] for a, b, c in rows], right=("COUNT",))
    assert WIDTH >= max(len(line) for line in drawn.split("\n"))
    assert len(rows) + 1 == len(drawn.split("\n"))


def test_numbers_stand_to_the_right():
    """A column of numbers ends at one edge."""
    assert table(["N", ""], [["1,000", "x"], ["1", "y"]], right=("N",)) == "    N\n1,000  x\n    1  y"


def test_durations_and_instants_are_short():
    """Two words for a duration, no fraction of a second for an instant."""
    assert ["0.5 s", "1 min 5 s", "2 h 3 min"] == [seconds(0.5), seconds(65.4), seconds(7_390)]
    assert ["2026-11-20 10:00:00Z", "-"] == [moment("2026-11-20T10:00:00.123Z"), moment(None)]


@pytest.mark.parametrize(
    ("unit", "value", "said"),
    [
        ("usd", "0.25", "$0.25"), ("calls", 1, "1 call"), ("tool_calls", 2_000, "2,000 tool calls"),
        ("tokens", 0, "0 tokens"), ("seconds", 59, "59 s"), ("seconds", 200, "3 min 20 s"),
        ("tokens", None, "no limit"), ("to\x1bns", 3, "3 to\\x1bns"),
        ("calls", "\x1b[2J", "\\x1b[2J"),
    ],
)  # fmt: skip
def test_an_amount_can_be_read_alone(unit, value, said):
    """With the word of its unit; one of a thing is one thing."""
    assert said == amount(unit, value)
    assert ("1 child", "2 children") == (count(1, "child", "children"), count(2, "child", "children"))


@pytest.mark.parametrize(
    ("stamp", "said"),
    [
        (None, "-"), ("2026-11-20T10:00:00Z", "now"), ("2026-11-20T10:00:30Z", "in 30.0 s"),
        ("2026-11-20T12:00:00Z", "in 2 h 0 min"), ("2026-11-24T12:00:00Z", "in 4 days 2 h"),
    ],
)  # fmt: skip
def test_an_instant_is_told_from_now(stamp, said):
    """What has come is now."""
    assert said == ahead(stamp, instant("2026-11-20T10:00:00Z"))
    assert "2 days 0 h" == span(172_800)
