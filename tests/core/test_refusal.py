"""Refusals are spelled in exact decimals (http.md section 3)."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.refusal import details, openai_error, rfc3339, usd
from gateway.core.types import Refusal


@pytest.mark.parametrize(
    ("nusd", "text"),
    [(0, "0"), (1, "0.000000001"), (20_000_000, "0.02"), (10**9, "1"), (10**10, "10"), (-5 * 10**8, "-0.5")],
)
def test_dollars_are_plain_decimals(nusd, text):
    """No exponent, no trailing zeros, nothing rounded."""
    assert text == usd(nusd)


@given(st.integers(-(2**63), 2**63))
def test_dollars_are_exact(nusd):
    """The text is the integer, at most nine digits after the point."""
    text = usd(nusd)
    assert nusd == int(Decimal(text).scaleb(9))
    assert len(text.partition(".")[2]) <= 9


def test_a_dollar_refusal_has_three_numbers():
    """Spent, held and limit apart; held is never shown as spent."""
    said = details(Refusal(402, "insufficient_quota", "m", "r", "run", "usd", 10**9, 5 * 10**8, 4 * 10**8, 2 * 10**8))
    assert ("1", "0.5", "0.4", "0.2") == (said["limit_usd"], said["spent_usd"], said["held_usd"], said["needed_usd"])
    assert None is said["limit"] is said["used"] is said["needed"] is said["resets_at"]


def test_other_units_have_their_own_fields():
    """`unit, limit, used, held, needed` are plain numbers; the dollar fields are null."""
    said = details(Refusal(402, "limit_calls", "m", unit="calls", limit=5, spent=5, held=0, needed=1))
    assert ("calls", 5, 5, 0, 1) == tuple(said[name] for name in ("unit", "limit", "used", "held", "needed"))
    assert None is said["limit_usd"] is said["spent_usd"]


def test_instants_are_rfc_3339():
    """In UTC, with a Z."""
    assert "2026-11-21T00:00:00Z" == rfc3339(1795219200)
    assert "2026-11-21T00:00:00Z" == details(Refusal(402, "x", "m", resets_at=1795219200.0))["resets_at"]


@pytest.mark.parametrize(
    ("code", "kind"), [("insufficient_quota", "budget_exceeded"), ("price_unknown", "price_unknown")]
)
def test_the_type_is_the_code_except_for_dollars(code, kind):
    """OpenAI's shape: message, type, code, param null, details inside."""
    error = json.loads(openai_error(Refusal(402, code, "Don't retry.")))["error"]
    assert {"message", "type", "code", "param", "details"} == set(error)
    assert (kind, code, None, "Don't retry.") == (error["type"], error["code"], error["param"], error["message"])
