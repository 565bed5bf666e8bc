"""`alerts`: the list, mute and ack by the control plane, and a test that needs no gateway."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.receiver import SECRET, receiving, verified


def alert(number: int = 1, **more: Any) -> dict[str, Any]:
    """An item of /api/alerts."""
    return {
        "alert_id": f"al_{number}", "state": "firing", "labels": {"alertname": "burn_rate", "severity": "critical"},
        "annotations": {"summary": "Run R burns $52.10 an hour.\x1b[31m"}, "first_at": "2026-11-20T03:12:00Z",
        "last_at": "2026-11-20T03:12:00Z", "muted_until": None, "acked_at": None,
        "deliveries": [{"channel": "a", "state": "delivered"}, {"channel": "b", "state": "pending"}], **more,
    }  # fmt: skip


def test_alerts_are_listed_with_their_sentences(box, meterbox):
    """One row and one sentence each, harmless in a terminal; `list` is the same; --firing leaves out what is over."""
    box.answers["GET /api/alerts"] = {
        "items": [alert(), alert(2, state="resolved"), alert(3, acked_at="2026-11-20T03:13:00Z")], "next_cursor": None
    }  # fmt: skip
    status, out, _ = meterbox("alerts")
    lines = out.splitlines()
    assert (0, 7) == (status, len(lines))
    assert ["al_1", "firing", "burn_rate", "critical", "11-20", "03:12:00", "1", "delivered,", "1", "pending"] == lines[
        1
    ].split()
    assert "  Run R burns $52.10 an hour.\\x1b[31m" == lines[2]
    assert "acked" in lines[5]
    assert out == meterbox("alerts", "list")[1]
    assert ["al_1", "al_3"] == [
        item["alert_id"] for item in json.loads(meterbox("alerts", "list", "--firing", "--json")[1])["items"]
    ]
    assert 1 == len(json.loads(meterbox("alerts", "--json", "--limit", "1", "--firing")[1])["items"])


def test_a_channel_that_does_not_take_an_alert_is_shown_with_its_error(box, meterbox):
    """What runbooks/alerts-undelivered.md looks for: the channel, its attempts, its last error; not what has passed."""
    deliveries = [
        {"channel": "a", "state": "pending", "attempts": 3, "last_error": "it answered 503\x1b[31m"},
        {"channel": "b", "state": "delivered", "attempts": 2, "last_error": "it answered 500"},
        {"channel": "c", "state": "pending", "attempts": 0, "last_error": None},
    ]
    box.answers["GET /api/alerts"] = {"items": [alert(deliveries=deliveries)], "next_cursor": None}
    assert ["  a: pending, 3 attempts: it answered 503\\x1b[31m"] == meterbox("alerts")[1].splitlines()[3:]


def test_no_alerts_are_said(box, meterbox):
    """On stderr: data is empty."""
    box.answers["GET /api/alerts"] = {"items": [], "next_cursor": None}
    assert (0, "", "No alert yet.\n") == meterbox("alerts")
    assert (0, "", "No alert goes on.\n") == meterbox("alerts", "--firing")


def test_a_mute_is_two_hours_a_span_or_an_instant(box, meterbox):
    """The instant goes to the control plane; what takes it back is said."""
    box.answers["POST /api/alerts/al_1/mute"] = {"alert_id": "al_1", "at": "2026-11-20T03:12:00Z"}
    status, out, _ = meterbox("alerts", "mute", "al_1")
    asked = datetime.fromisoformat(box.asked[-1][1]["until"])
    assert 7190 <= (asked - datetime.now(UTC)).total_seconds() <= 7200
    assert (0, True) == (status, "`meterbox alerts mute al_1 --for 0s` ends that" in out)
    box.answers["POST /api/alerts/al_1/mute"] = {"alert_id": "al_1", "at": "2999-11-20T03:12:00Z"}
    assert "al_1 is not muted\n" == meterbox("alerts", "mute", "al_1", "--for", "0s")[1]
    for span, seconds in (("30m", 1800), ("1d", 86_400), ("0s", 0)):
        meterbox("alerts", "mute", "al_1", "--for", span)
        left = (datetime.fromisoformat(box.asked[-1][1]["until"]) - datetime.now(UTC)).total_seconds()
        assert seconds - 10 <= left <= seconds
    meterbox("alerts", "mute", "al_1", "--until", "2026-12-01T00:00:00+01:00", "--json")
    assert {"until": "2026-11-30T23:00:00Z"} == box.asked[-1][1]


@pytest.mark.parametrize(
    "args", [("--for", "soon"), ("--for", "2h", "--until", "2026-12-01T00:00:00Z"), ("--for", "-1h"), ("--until", "x")]
)
def test_a_mute_that_makes_no_sense_is_a_usage_error(box, meterbox, args):
    """Exit status 2, and nobody was asked."""
    assert 2 == meterbox("alerts", "mute", "al_1", *args)[0]
    assert [] == box.asked


def test_an_ack_is_passed_on(box, meterbox):
    """And an alert that isn't there is an error."""
    box.answers["POST /api/alerts/al_1/ack"] = {"alert_id": "al_1", "at": "2026-11-20T03:12:00Z"}
    assert (0, "al_1 is acknowledged: it is not repeated, its end is told\n") == meterbox("alerts", "ack", "al_1")[:2]
    assert "al_1" == json.loads(meterbox("alerts", "ack", "al_1", "--json")[1])["alert_id"]
    assert 1 == meterbox("alerts", "ack", "al_2")[0]


def test_a_test_reaches_every_channel_without_a_gateway(box, meterbox, tmp_path):
    """Signed by the configured secret; exit status 0, and the control plane was not asked."""
    with receiving() as hook, receiving() as team:
        with (tmp_path / "meterbox.toml").open("a") as file:
            file.write(
                f'[projections.alerts.channels.hook]\nurl = "{hook.url}"\nsecret = "{SECRET}"\n'
                f'[projections.alerts.channels.team]\nurl = "json://127.0.0.1:{team.port}/x"\n'
            )
        assert (0, "hook: taken\nteam: taken\n", "") == meterbox("alerts", "test")
        assert verified(hook.posts[0].headers, hook.posts[0].raw)
        assert "Meterbox test" == team.posts[0].body["title"]
        hook.answers = [500]
        status, out, err = meterbox("alerts", "test")
        assert (1, "hook: it answered 500\nteam: taken\n") == (status, out)
        assert "1 channel of 2 did not take the message" in err
        said = json.loads(meterbox("alerts", "test", "--json")[1])
        assert [False, True] == [item["taken"] for item in said["items"]]
    assert [] == box.asked


def test_a_test_without_a_channel_says_where_to_write_one(box, meterbox):
    """Nobody would be told of anything: that is a failure."""
    status, _, err = meterbox("alerts", "test")
    assert 1 == status
    assert "[projections.alerts.channels.NAME]" in err
