"""`runs`: the list and the story of one run, exact and harmless."""

import json

from tests.cli.conftest import RUN, call


def test_the_list_fits_and_is_exact(box, meterbox):
    """One line a run, numbers to the right, nothing wider than 100 columns."""
    box.answers["GET /api/runs"] = {
        "items": [RUN, {**RUN, "run_id": "x" * 128, "agent": "\x1b[2J"}],
        "next_cursor": None,
    }
    status, out, _ = meterbox("runs", "--state", "active")
    assert 0 == status
    assert ["RUN", "STATE", "CALLS", "TOKENS", "SPENT", "LIMIT", "AGENT", "LAST", "(UTC)"] == out.split("\n")[0].split()
    assert ["r-1", "active", "3", "13,023", "$0.030000", "$1.00", "research"] == out.split("\n")[1].split()[:7]
    assert "\x1b" not in out and "…" in out
    assert 100 >= max(len(line) for line in out.split("\n"))
    assert "state=active" in box.asked[0][0]
    long = {**RUN, "run_id": "run_01m7z6110fh0c7ebnddngcktp5", "state": "ended", "outcome": "completed", "agent": None}
    box.answers["GET /api/runs"] = {"items": [long], "next_cursor": None}
    assert long["run_id"] in meterbox("runs")[1]


def test_json_is_what_the_control_plane_said(box, meterbox):
    """--json passes the items on, exact."""
    box.answers["GET /api/runs"] = {"items": [RUN], "next_cursor": None}
    assert {"items": [RUN]} == json.loads(meterbox("runs", "--json")[1])


def test_no_runs_is_talk_not_data(box, meterbox):
    """An empty list prints nothing on stdout."""
    box.answers["GET /api/runs"] = {"items": [], "next_cursor": None}
    status, out, err = meterbox("runs")
    assert (0, "") == (status, out)
    assert "No runs yet" in err


def show(box, meterbox, run, calls, *flags):
    """`runs show r-1` of this run with these calls."""
    box.answers["GET /api/runs/r-1"] = run
    box.answers["GET /api/runs/r-1/calls"] = {"items": calls, "next_cursor": None}
    status, out, err = meterbox("runs", "show", "r-1", *flags)
    assert (0, "") == (status, err)
    return out


def test_one_run_is_told_in_full(box, meterbox):
    """What happened, what it cost, where it went by model and by step, why it stopped, what to do now."""
    calls = [
        call(1, "small", "0.01"),
        call(2, "large", "0.02", tool_calls=[{"id": "t", "name": "se\x1barch", "known": True, "valid": True}]),
        call(3, "small", "0.000000001", cost_source="presumed"),
        call(4, "small", "0", cost_source="refused", status=None, outcome="refused", reason="loop_blocked"),
    ]
    out = show(box, meterbox, RUN, calls)
    assert "3 calls and 2 tool calls in 1 min 5 s" in out and "1 refused, 1 errors" in out
    assert "$0.030000 of $1.00; $0.50 held by calls under way; $0.02 of it by its own calls" in out
    assert "1 calls ended unclear and are charged at their upper bound" in out
    where = [line.split() for line in out.split("\n")]
    assert ["large", "1", "1,000", "100", "$0.02"] in where
    assert ["small", "2", "2,000", "200", "$0.010000"] in where
    assert ["step", "2", "large", "1,000", "100", "$0.02", "ok", "se\\x1barch"] in where
    assert "Why it stopped  it has not; 1 calls were refused" in out
    assert "meterbox kill r-1" in out
    assert 100 >= max(len(line) for line in out.split("\n") if not line.startswith("What"))


def test_why_a_run_stopped_and_what_to_do_depend_on_how_it_ended(box, meterbox):
    """A run stopped by its limit may be given more, a killed one resumed, with the reason shown."""
    out = show(box, meterbox, {**RUN, "state": "ended", "outcome": "stopped_by_limit"}, [])
    assert "its budget was used up" in out and "meterbox budget r-1 --usd" in out
    out = show(box, meterbox, {**RUN, "state": "killed", "outcome": "killed", "reason": "too\x07 loud"}, [])
    assert "somebody killed it: too\\x07 loud" in out and "meterbox resume r-1" in out
    out = show(box, meterbox, {**RUN, "state": "ended", "outcome": "completed"}, [])
    assert "nothing: it is over" in out


def test_one_run_as_json_has_exact_sums(box, meterbox):
    """By model, to the nano-dollar; a call without a price adds nothing."""
    calls = [call(1, "m", "0.000000001"), call(2, "m", "0.000000002"), call(3, "n", None, cost_source="unknown_model")]
    told = json.loads(show(box, meterbox, RUN, calls, "--json"))
    assert [("m", "0.000000003"), ("n", "0.000000000")] == [(row["model"], row["cost_usd"]) for row in told["by_model"]]
    assert RUN == told["run"] and calls == told["calls"]
