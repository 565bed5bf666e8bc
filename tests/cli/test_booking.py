"""The spread of a difference over calls: exact, in proportion, never below zero (tests/cli/test_prices.py books it)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.booking import spread

amounts = st.lists(st.integers(0, 10**12), max_size=30)


@given(st.integers(1, 10**13), amounts)
def test_a_rise_is_spread_whole(amount: int, charged: list[int]) -> None:
    """The parts add up to it, and each is its share, give or take a nano-dollar."""
    parts = spread(amount, charged, charged)
    assert (amount if charged else 0) == sum(parts)
    if any(charged):
        assert all(
            abs(part * sum(charged) - amount * cost) < sum(charged) for part, cost in zip(parts, charged, strict=True)
        )


@given(st.integers(1, 10**13), amounts)
def test_a_refund_takes_no_call_below_zero(amount: int, charged: list[int]) -> None:
    """What the calls were charged is all that can be given back."""
    parts = spread(-amount, charged, charged)
    assert -min(amount, sum(charged)) == sum(parts)
    assert all(0 <= -part <= cost for part, cost in zip(parts, charged, strict=True))


@pytest.mark.parametrize(
    ("amount", "weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]), (7, [2, 1], [5, 2]), (1, [1, 5, 5], [0, 1, 0]), (5, [0, 0], [3, 2]), (5, [], []),
        (-5, [3, 3], [-3, -2]), (-9, [3, 3], [-3, -3]), (-5, [0, 0], [0, 0]),
    ],
)  # fmt: skip
def test_the_largest_remainder_comes_first(amount: int, weights: list[int], parts: list[int]) -> None:
    """Equal remainders in the order of the calls; without any weight all are equal."""
    assert parts == spread(amount, weights, weights)
