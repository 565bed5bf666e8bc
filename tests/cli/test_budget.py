"""`budget`: the accounts with the time they last, and one run's limits shown and changed, exact."""

import json

import pytest

from tests.cli.conftest import RUN

ITEM = {
    "name": "per-run", "scope": "run", "account": "run/r-1/nusd", "unit": "usd", "per": "run", "mode": "strict",
    "limit": "1", "spent": "0.25", "held": "0", "overrun": "0", "window_started_at": None, "resets_at": None,
    "exhausted_at": None,
}  # fmt: skip
DAY = {
    **ITEM, "name": "daily", "scope": "agent:*", "account": "agent:research", "unit": "tokens", "per": "day",
    "mode": "shadow", "limit": 12_000, "spent": 1, "held": 10, "exhausted_at": "2020-01-01T00:00:00Z",
    "resets_at": "2999-01-01T00:00:00Z",
}  # fmt: skip


def listed(items, *, runs):
    """What the control plane would say: all items, and of each run its own."""
    active = "GET /api/runs?state=active&sort=-spent_usd&limit=1000"
    return {
        "GET /api/budgets": {"items": items, "next_cursor": None},
        active: {"items": runs, "next_cursor": None},
        "GET /api/runs": {"items": [], "next_cursor": None},
    }


def test_budgets_are_listed(box, meterbox):
    """Each account with its limit, spent and held in words of its unit, how long it lasts and when it starts anew."""
    box.answers |= listed([DAY, ITEM], runs=[RUN])
    lines = meterbox("budget")[1].split("\n")
    assert ["BUDGET", "OF", "LIMIT", "SPENT", "HELD", "LASTS", "ANEW", "IN"] == lines[0].split()
    day = lines[1]
    for words in ("shadow daily", "agent:research", "12,000 tokens", " 1 ", " 10 ", " used up ", " days "):
        assert words in day
    assert ["per-run", "run", "r-1", "$1.00", "$0.25", "$0.00", "-", "-"] == lines[2].split()
    assert 100 >= max(map(len, lines))
    assert {"items": [DAY, ITEM]} == json.loads(meterbox("budget", "--json")[1])


def test_of_many_runs_those_that_spent_most_are_shown(box, meterbox):
    """Ten of them, and how many more there are; accounts of a parent are not repeated at its children."""
    runs = [{**RUN, "run_id": f"r-{n}", "spent_usd": str(n)} for n in range(25)]
    box.answers |= listed([], runs=runs)
    for number in range(25):
        mine = [{**ITEM, "account": f"run/r-{number}/nusd"}, {**ITEM, "account": "run/parent/nusd"}]
        box.answers[f"GET /api/budgets?run=r-{number}&limit=1000"] = {"items": mine, "next_cursor": None}
        box.answers[f"GET /api/budgets?run=r-{number}&limit=10000"] = {"items": mine, "next_cursor": None}
    out = meterbox("budget")[1]
    assert [f"r-{n}" for n in range(24, 14, -1)] == [line.split()[2] for line in out.split("\n")[1:11]]
    assert 10 == out.count("per-run")
    assert "and 15 more runs" in out and "parent" not in out


def test_shared_accounts_come_from_every_page(box, meterbox):
    """They stand in front of the runs, over as many pages as it takes; behind the first run nothing is asked."""
    box.answers |= listed([], runs=[])
    box.answers["GET /api/budgets?limit=1000"] = {"items": [DAY] * 2, "next_cursor": "x"}
    box.answers["GET /api/budgets?limit=1000&cursor=x"] = {"items": [DAY, ITEM], "next_cursor": "y"}
    assert 3 == meterbox("budget")[1].count("daily")
    assert not any("cursor=y" in asked for asked, _, _ in box.asked)


def test_no_account_is_talk_not_data(box, meterbox):
    """Nothing on stdout."""
    box.answers |= listed([], runs=[])
    status, out, err = meterbox("budget")
    assert (0, "") == (status, out) and "No budget has an account yet" in err


def test_a_runs_limits_are_shown(box, meterbox):
    """State, then spent, held and limit as three numbers, dollars first; units without a limit stay out."""
    box.answers["GET /api/runs/r-1"] = {**RUN, "limits": {"usd": "1", "calls": 40, "tokens": None, "seconds": 90}}
    calls = {**ITEM, "unit": "calls", "account": "run/r-1/calls", "limit": 40, "spent": 3, "held": 1}
    parents = {**calls, "account": "run/p/calls", "spent": 39}
    box.answers["GET /api/budgets"] = {"items": [calls, parents], "next_cursor": None}
    out = meterbox("budget", "r-1")[1]
    assert [
        "r-1 is active",
        "  $0.030000 spent, $0.50 held, limit $1.00",
        "  3 spent, 1 held, limit 40 calls",
    ] == out.split("\n")[:3]
    assert out.split("\n")[3].endswith("limit 1 min 30 s") and "tokens" not in out


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (["--usd", "2"], {"usd": "2.000000000"}),
        (["--usd", "$0.10"], {"usd": "0.100000000"}),
        (["--usd", "0", "--calls", "0"], {"usd": "0.000000000", "calls": 0}),
        (["--tool-calls", "7", "--tokens", "8", "--seconds", "9"], {"tool_calls": 7, "tokens": 8, "seconds": 9}),
    ],
)
def test_a_runs_limits_are_changed_exactly(box, meterbox, typed, sent):
    """Dollars go out as a plain decimal, never as a float; other units as whole numbers."""
    box.answers["POST /api/runs/r-1/limits"] = RUN
    box.answers["GET /api/budgets"] = {"items": [], "next_cursor": None}
    assert 0 == meterbox("budget", "r-1", *typed)[0]
    assert sent == box.asked[0][1]


def test_a_change_that_pauses_says_so(box, meterbox):
    """The state comes first, with its reason."""
    paused = {**RUN, "state": "paused", "reason": "its limit was set below what it has used"}
    box.answers["POST /api/runs/r-1/limits"] = paused
    box.answers["GET /api/budgets"] = {"items": [], "next_cursor": None}
    assert "r-1 is paused: its limit was set below what it has used\n" in meterbox("budget", "r-1", "--usd", "0.01")[1]


@pytest.mark.parametrize(
    "typed", ["--usd=-1", "--usd=nan", "--usd=many", "--usd=0.0000000001", "--usd=1e12", "--calls=1.5", "--tokens=-1"]
)
def test_a_bad_amount_is_a_usage_error(box, meterbox, typed):
    """Exit status 2 with the reason; nobody was asked."""
    status, _, err = meterbox("budget", "r-1", typed)
    assert (2, []) == (status, box.asked)
    assert "Error: " in err


@pytest.mark.parametrize("typed", [["--usd", "1"], ["--calls", "0"]])
def test_an_amount_needs_a_run(box, meterbox, typed):
    """A limit alone changes nothing."""
    assert 2 == meterbox("budget", *typed)[0]
