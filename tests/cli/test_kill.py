"""`kill`: one target, the reason passed on."""

import json
import shlex

import pytest

from gateway.core.telemetry.alerts.texts import pasted
from tests.cli.conftest import RUN


def test_a_run_is_killed_with_its_reason(box, meterbox):
    """The reason goes to the control plane, which tells it to the refused calls."""
    box.answers["POST /api/runs/r-1/kill"] = {**RUN, "state": "killed"}
    status, out, _ = meterbox("kill", "r-1", "--reason", "enough")
    assert (0, "killed r-1; `meterbox resume r-1` lets it go on\n") == (status, out)
    assert ("POST /api/runs/r-1/kill", {"reason": "enough"}) == box.asked[0][:2]
    assert "`meterbox resume r-1 --key ann` lets" in meterbox("kill", "r-1", "--key", "ann")[1]  # not another's run


@pytest.mark.parametrize("run", ["--all", "-h", "--agent"])
def test_the_command_of_an_alert_stops_its_run_whatever_that_is_called(box, meterbox, run):
    """Callers choose run ids: one that looks like an option is still one run, and is resumed as one."""
    box.answers[f"POST /api/runs/{run}/kill"] = {**RUN, "run_id": run}
    box.answers[f"POST /api/runs/{run}/resume"] = {**RUN, "run_id": run, "state": "active"}
    words = shlex.split(pasted("kill", run, "ann"))
    status, out, _ = meterbox(*words[1:])
    assert (0, f"killed {run}; `meterbox resume --key ann -- {run}` lets it go on\n") == (status, out)
    assert 0 == meterbox(*shlex.split(out.split("`")[1])[1:])[0]
    assert [f"POST /api/runs/{run}/{verb}" for verb in ("kill", "resume")] == [
        asked[0].partition("?")[0] for asked in box.asked
    ]


@pytest.mark.parametrize(
    ("args", "target"),
    [(("--all",), {"all": True}), (("--agent", "a"), {"agent": "a"}), (("--user", "u"), {"user": "u"})],
)
def test_a_switch_names_its_target(box, meterbox, args, target):
    """All, one agent's, or one user's runs."""
    said = {"gate": "global", "open": False, "runs": 2, "calls": 1}
    box.answers["POST /api/kill"] = said
    assert said == json.loads(meterbox("kill", *args, "--json")[1])
    assert {**target, "reason": "stopped by the operator"} == box.asked[0][1]


@pytest.mark.parametrize("args", [("--all",), ("--agent", "a"), ("--user", "u v")])
def test_what_takes_a_switch_back_is_said_as_a_command(box, meterbox, args):
    """It can be pasted: the option that was used, quoted where a shell needs it."""
    box.answers["POST /api/kill"] = {"gate": "global", "open": False, "runs": 1, "calls": 0}
    said = "killed 1 run and ended 0 open calls; new runs are refused until `meterbox resume"
    assert f"{said} {shlex.join(args)}`\n" == meterbox("kill", *args)[1]


@pytest.mark.parametrize("args", [(), ("r-1", "--all"), ("--agent", "a", "--user", "u")])
def test_anything_but_one_target_is_a_usage_error(box, meterbox, args):
    """Nothing is stopped by accident: exit status 2, and nobody was asked."""
    status, _, err = meterbox("kill", *args)
    assert 2 == status
    assert "name exactly one" in err
    assert [] == box.asked


def test_an_unknown_run_is_an_error(box, meterbox):
    """Exit status 1, the reason on stderr, nothing on stdout."""
    status, out, err = meterbox("kill", "nope")
    assert (1, "") == (status, out)
    assert "There is no such" in err
