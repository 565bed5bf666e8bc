"""`runs`: the list and the story of one run, exact and harmless."""

import json

from gateway.cli.runs import most_of
from gateway.cli.story import QUESTIONS
from gateway.config import load
from tests.cli.conftest import RUN, call
from tests.cli.test_story import BUDGET, SPAN


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
    assert (0, "", "No such run. `meterbox runs` lists all.\n") == meterbox("runs", "--state", "paused")


def show(box, meterbox, *flags):
    """`runs show r-1` of a run with one call, one tool call, one child, one open call and one budget."""
    box.answers["GET /api/runs/r-1"] = RUN
    box.answers["GET /api/runs/r-1/calls"] = {"items": [call(1, "gpt-4o", "0.02")], "next_cursor": None}
    box.answers["GET /api/runs/r-1/tools"] = {"items": [SPAN], "next_cursor": None}
    box.answers["GET /api/runs"] = {"items": [{**RUN, "run_id": "kid"}], "next_cursor": None}
    box.answers["GET /api/runs/r-1/held"] = {"items": [], "next_cursor": None}
    box.answers["GET /api/budgets"] = {"items": [BUDGET], "next_cursor": None}
    status, out, err = meterbox("runs", "show", "r-1", *flags)
    assert (0, "") == (status, err)
    return out


def test_one_run_is_told_in_seven_answers(box, meterbox):
    """Everything that the page tells is asked of the control plane, of this run and of this key."""
    out = show(box, meterbox, "--key", "ann")
    assert list(QUESTIONS) == [line for line in out.split("\n") if line and not line.startswith(" ")]
    for words in ("gpt-4o", "search 1x", "Children: kid", "Budget each-run", "meterbox kill r-1"):
        assert words in out
    assert all("key=ann" in asked for asked, _, _ in box.asked)
    assert any("parent=r-1" in asked for asked, _, _ in box.asked)
    assert any("run=r-1" in asked for asked, _, _ in box.asked)


def test_how_far_a_limit_may_rise_is_read_from_the_configuration(tmp_path):
    """In every unit that limits runs; dollars as they are typed."""
    file = tmp_path / "meterbox.toml"
    file.write_text('[[budgets]]\nname = "b"\nscope = "run"\nusd = "1"\nmax_usd = "2.5"\ncalls = 7\n', encoding="utf-8")
    assert {"usd": "2.5", "calls": 7} == most_of(load(file, {}))


def test_one_run_as_json_is_what_was_asked(box, meterbox):
    """Items as they came, and exact sums by model."""
    told = json.loads(show(box, meterbox, "--json"))
    assert RUN == told["run"] and [call(1, "gpt-4o", "0.02")] == told["calls"]
    assert ["0.020000000"] == [row["cost_usd"] for row in told["by_model"]]
    assert [["kid"], ["search"], ["each-run"], []] == [
        [item["run_id"] for item in told["children"]], [item["name"] for item in told["tools"]],
        [item["name"] for item in told["budgets"]], told["held"],
    ]  # fmt: skip
