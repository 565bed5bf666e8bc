"""`budget`: the accounts, and one run's limit shown and changed, exact."""

import json

import pytest

from tests.cli.conftest import RUN

ITEM = {
    "name": "per-run", "scope": "run", "account": "run/r-1/nusd", "unit": "usd", "per": "run", "mode": "strict",
    "limit": "1", "spent": "0.25", "held": "0", "overrun": "0", "window_started_at": None, "resets_at": None,
    "exhausted_at": None,
}  # fmt: skip


def test_budgets_are_listed(box, meterbox):
    """Each account with its limit, spent and held."""
    box.answers["GET /api/budgets"] = {"items": [ITEM], "next_cursor": None}
    out = meterbox("budget")[1]
    assert ["per-run", "run/r-1/nusd", "run", "$1.00", "$0.25", "$0.00", "$0.00"] == out.split("\n")[1].split()
    assert {"items": [ITEM]} == json.loads(meterbox("budget", "--json")[1])


def test_a_runs_limit_is_shown(box, meterbox):
    """Spent, held and limit are three numbers."""
    box.answers["GET /api/runs/r-1"] = RUN
    assert (0, "r-1: $0.030000 spent and $0.50 held of $1.00\n", "") == meterbox("budget", "r-1")


@pytest.mark.parametrize(("typed", "sent"), [("2", "2.000000000"), ("$0.10", "0.100000000"), ("0", "0.000000000")])
def test_a_runs_limit_is_changed_exactly(box, meterbox, typed, sent):
    """The amount goes out as a plain decimal, never as a float."""
    box.answers["POST /api/runs/r-1/limits"] = RUN
    assert 0 == meterbox("budget", "r-1", "--usd", typed)[0]
    assert {"usd": sent} == box.asked[0][1]


@pytest.mark.parametrize("typed", ["-1", "nan", "many", "0.0000000001", "1e12"])
def test_a_bad_amount_is_a_usage_error(box, meterbox, typed):
    """Exit status 2 with the reason; nobody was asked."""
    status, _, err = meterbox("budget", "r-1", f"--usd={typed}")
    assert (2, []) == (status, box.asked)
    assert "Error: " in err


def test_an_amount_needs_a_run(box, meterbox):
    """`--usd` alone changes nothing."""
    assert 2 == meterbox("budget", "--usd", "1")[0]
