"""`demo`: the table that a stranger understands, the JSON, and the exit status when a promise breaks."""

import json

import pytest

from gateway.demo import story

LANES = [
    ("demo-task", "agent finishes its task", True, 4, 0, "0.000264000", "0.000264000"),
    ("direct", "50 sub-agents run away", False, 600, 0, "20.325447000", None),
    ("demo-runaway", "50 sub-agents run away", True, 98, 50, "0.981048000", "0.981048000"),
    ("demo-killed", "SIGKILL amid 20 streams", True, 21, 0, "0.004360000", "0.222352000"),
]


def told(kept):
    """What the story returns."""
    names = ("name", "title", "through_gateway", "calls", "refused", "provider_bill_usd", "ledger_usd")
    lanes = [{**dict(zip(names, lane, strict=True)), "limit_usd": "1.000000000" if lane[2] else None} for lane in LANES]
    return {"ok": kept, "lanes": lanes, "promises": [{"claim": "nothing stays held", "kept": kept}], "seconds": 1.0}


@pytest.fixture
def played(monkeypatch):
    """A story that was played already, well or badly."""

    def play(kept):
        monkeypatch.setattr(story, "run", lambda say: told(kept))

    return play


def test_the_table_shows_each_lane_by_bill_and_ledger(played, meterbox):
    """One line a lane, and the sentence below with the figures of this run."""
    played(True)
    status, out, err = meterbox("demo", "--headless")
    assert (0, "") == (status, err)
    rows = out.strip("\n").split("\n")
    assert ["METERBOX", "CALLS", "REFUSED", "PROVIDER", "BILLED", "LEDGER", "SAYS", "LIMIT"] == rows[0].split()
    assert ["no", "600", "0", "$20.325447", "-", "none"] == rows[2].split()[-6:]
    assert ["yes", "98", "50", "$0.981048", "$0.981048", "$1.00"] == rows[3].split()[-6:]
    assert "cost $20.32 on its own was stopped at $0.98" in out
    assert 100 >= max(len(row) for row in rows)


def test_a_broken_promise_is_not_praised(played, meterbox):
    """The table stands, the sentence that claims it all was kept does not."""
    played(False)
    status, out, err = meterbox("demo", "--headless")
    assert (1, "meterbox: BROKEN: nothing stays held\n") == (status, err)
    assert "LEDGER SAYS" in out and "never" not in out


def test_a_broken_promise_is_exit_status_one(played, meterbox):
    """The promise is named on stderr; the JSON says ok: false."""
    played(False)
    status, out, err = meterbox("demo", "--headless", "--json")
    assert (1, "meterbox: BROKEN: nothing stays held\n") == (status, err)
    assert json.loads(out)["ok"] is False
