"""Spelling: exact amounts, tables that fit, and texts of others made harmless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.words import WIDTH, harmless, moment, money, number, seconds, table


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
