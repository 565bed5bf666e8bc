"""Claims about the webhook's body and signature, read by other implementations of both."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from msgspec import structs

from gateway.core.telemetry.alerts import webhook
from gateway.core.telemetry.alerts.episodes import Message

AT = 1_614_265_330.0
MESSAGE = Message(
    "msg_p5jXN8AQM9LWM0D4loKWxJek", "al_1", "run_stopped", "warning", {"run_id": "R", "agent": "ann"},
    {"summary": "Run R was killed after $4.10.", "mute": "meterbox alerts mute al_1"}, "firing", AT, None, AT,
)  # fmt: skip


def test_the_body_is_alertmanagers_version_4():
    """Every field of its documentation, with its types."""
    said = json.loads(webhook.body(MESSAGE, "phone"))
    assert {
        "version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels",
        "commonAnnotations", "externalURL", "alerts",
    } == set(said)  # fmt: skip
    assert ("4", "firing", "phone", 0) == tuple(
        said[key] for key in ("version", "status", "receiver", "truncatedAlerts")
    )
    (alert,) = said["alerts"]
    assert {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"} == set(alert)
    assert {"alertname": "run_stopped", "severity": "warning", "run_id": "R", "agent": "ann"} == alert["labels"]
    assert alert["labels"] == said["commonLabels"]
    assert MESSAGE.annotations == alert["annotations"] == said["commonAnnotations"]
    assert ("2021-02-25T15:02:10Z", "0001-01-01T00:00:00Z") == (alert["startsAt"], alert["endsAt"])
    over = json.loads(webhook.body(structs.replace(MESSAGE, status="resolved", ends_at=AT + 60), "phone"))
    assert ("resolved", "2021-02-25T15:03:10Z") == (over["status"], over["alerts"][0]["endsAt"])
    assert alert["fingerprint"] == over["alerts"][0]["fingerprint"]


def test_the_fingerprint_is_prometheus_own():
    """Values that the Go code gives for the same labels (model.LabelSet.Fingerprint)."""
    assert "cbf29ce484222325" == webhook.fingerprint({})  # the offset basis: what no labels hash to
    one, other = {"a": "b", "c": "d"}, {"c": "d", "a": "b"}
    assert webhook.fingerprint(one) == webhook.fingerprint(other)
    assert webhook.fingerprint({"ab": "c"}) != webhook.fingerprint({"a": "bc"})


def test_what_was_left_out_is_said():
    """In the field that Alertmanager has for it, and in the sentence, which stays as short."""
    long = structs.replace(MESSAGE, annotations={"summary": "x" * 160})
    said = json.loads(webhook.body(long, "phone", 1234))
    assert 1234 == said["truncatedAlerts"]
    assert said["commonAnnotations"]["summary"].endswith("… (+1,234 not sent)")
    assert 160 == len(said["commonAnnotations"]["summary"])


def test_the_signature_is_that_of_the_specifications_own_example():
    """Secret, id, time stamp, body and signature as the reference libraries test them."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = webhook.signed(MESSAGE.message_id, 1_614_265_330.9, b'{"test": 2432232314}', [secret])
    assert {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    } == headers


def test_while_a_secret_changes_there_are_two_signatures_and_without_one_there_is_none():
    """A receiver takes either; what is not signed says so by having no signature."""
    secrets = [f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2)]
    said = webhook.signed("m", AT, b"{}", secrets)["webhook-signature"].split(" ")
    for one, signature in zip(secrets, said, strict=True):
        key = base64.b64decode(one[6:])
        digest = hmac.new(key, b"m.1614265330.{}", hashlib.sha256).digest()
        assert f"v1,{base64.b64encode(digest).decode()}" == signature
    assert "webhook-signature" not in webhook.signed("m", AT, b"{}", [])
    with pytest.raises(ValueError, match="whsec_"):
        webhook.key_of("whsec_nothing!")


def test_a_trial_says_that_it_is_one():
    """Its own name, no alarm in it."""
    said = json.loads(webhook.body(webhook.trial("msg_1", AT), "phone"))
    assert {"alertname": "test", "severity": "info"} == said["commonLabels"]
    assert "nothing is wrong" in said["commonAnnotations"]["summary"]
