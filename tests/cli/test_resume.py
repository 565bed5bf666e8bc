"""`resume`: lets a run, an agent, a user or all go on."""

from tests.cli.conftest import RUN


def test_a_run_is_resumed(box, meterbox):
    """What it spent is said, because it stays."""
    box.answers["POST /api/runs/r-1/resume"] = RUN
    assert (0, "r-1 is active; it has spent $0.030000\n", "") == meterbox("resume", "r-1")


def test_a_switch_is_opened_again(box, meterbox):
    """The same targets as kill."""
    box.answers["POST /api/resume"] = {"gate": "agent/a", "open": True, "runs": 0, "calls": 0}
    assert 0 == meterbox("resume", "--agent", "a")[0]
    assert {"agent": "a"} == box.asked[0][1]
    assert 2 == meterbox("resume")[0]
