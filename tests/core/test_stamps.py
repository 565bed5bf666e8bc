"""Tests of core/stamps.py."""

from gateway.core.stamps import after, before
from gateway.core.types import Balance, Exchange


def record(**more: object) -> Exchange:
    return Exchange(
        call_id="c", run="r", step=3, dialect="d", provider="p", operation="chat", request_model="m", stream=False,
        started_at=0.0, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_answer_says_run_call_and_step():
    """Run id, call id and step are known before the first byte."""
    stamps = dict(before(record(), "r"))
    assert stamps == {"x-meterbox-run-id": "r", "x-meterbox-call-id": "c", "x-meterbox-step": "3"}


def test_the_clamp_and_the_warning_are_said_where_they_are():
    """-clamped only where the gateway set the limit."""
    stamps = dict(before(record(clamped=256, warning="w"), "r"))
    assert stamps["x-meterbox-clamped"] == "256"
    assert stamps["x-meterbox-warning"] == "w"


def test_money_is_exact_and_the_run_account_comes_first():
    """Cost, spent and remaining are the ledger's own figures, unrounded (R-087)."""
    balances = (Balance("run/r/nusd", 10_000_000_000, 1_234_567_891, 5), Balance("run/p/nusd", 1, 0, 0))
    stamps = dict(after(record(cost_nusd=1), balances))
    assert stamps["x-meterbox-cost-usd"] == "0.000000001"
    assert stamps["x-meterbox-spent-usd"] == "1.234567891"
    assert stamps["x-meterbox-remaining-usd"] == "8.765432109"


def test_an_unknown_cost_is_not_a_zero():
    """A null cost gives no header."""
    assert "x-meterbox-cost-usd" not in dict(after(record(cost_nusd=None), ()))
