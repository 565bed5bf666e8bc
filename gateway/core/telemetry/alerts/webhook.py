"""The JSON webhook: an Alertmanager v4 body, signed as Standard Webhooks has it.

Invariant: the same message gives the same id, fingerprint and alerts at every repeat; only the time stamp and with it
the signature differ. What never enters: sending, a clock, prompt text.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, Final

from gateway.core.refusal import rfc3339
from gateway.core.telemetry.alerts.episodes import Message
from gateway.core.telemetry.alerts.texts import fit

PREFIX: Final = "whsec_"
_OPEN: Final = "0001-01-01T00:00:00Z"  # how Go spells no time: what Alertmanager sends for an alert that goes on
_MASK: Final = (1 << 64) - 1


def trial(message_id: str, at: float) -> Message:
    """What `meterbox alerts test` sends."""
    about = {
        "summary": "This is a test of Meterbox: alerts about money, runs and providers come here; nothing is wrong.",
        "look": "meterbox alerts",
    }
    return Message(message_id, message_id, "test", "info", {}, about, "firing", at, None, at)


def body(message: Message, receiver: str, left_out: int = 0) -> bytes:
    """The body that Alertmanager would post; `truncatedAlerts` counts what was left out for want of room."""
    labels = all_labels(message)
    about = said(message, left_out)
    alert: dict[str, Any] = {
        "status": message.status,
        "labels": labels,
        "annotations": about,
        "startsAt": rfc3339(message.starts_at),
        "endsAt": _OPEN if message.ends_at is None else rfc3339(message.ends_at),
        "generatorURL": "",
        "fingerprint": fingerprint(labels),
    }
    told = {
        "version": "4",
        "groupKey": f'{{}}:{{alert_id="{message.alert_id}"}}',
        "truncatedAlerts": left_out,
        "status": message.status,
        "receiver": receiver,
        "groupLabels": {"alertname": message.alertname},
        "commonLabels": labels,
        "commonAnnotations": about,
        "externalURL": "",
        "alerts": [alert],
    }
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode()


def all_labels(message: Message) -> dict[str, str]:
    """With the two that every alert has."""
    return {"alertname": message.alertname, "severity": message.severity, **message.labels}


def said(message: Message, left_out: int) -> dict[str, str]:
    """The annotations; the summary says what was left out."""
    if not left_out:
        return message.annotations
    tail = f" (+{left_out:,} not sent)"
    return {**message.annotations, "summary": fit(message.annotations["summary"], 160 - len(tail)) + tail}


def signed(message_id: str, at: float, raw: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers; while a secret is rotated there are two signatures, the receiver takes either."""
    stamp = str(int(at))
    headers = {"webhook-id": message_id, "webhook-timestamp": stamp}
    made = [hmac.new(key_of(one), f"{message_id}.{stamp}.".encode() + raw, hashlib.sha256).digest() for one in secrets]
    if made:
        headers["webhook-signature"] = " ".join(f"v1,{base64.b64encode(one).decode()}" for one in made)
    return headers


def key_of(secret: str) -> bytes:
    """The key that `whsec_` + base64 spells. Raises ValueError."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a webhook's secret is whsec_ and base64") from None


def fingerprint(labels: dict[str, str]) -> str:
    """As Prometheus' own: FNV-1a over the sorted labels, each word followed by 255."""
    made = 14695981039346656037
    for name in sorted(labels):
        for byte in (*name.encode("utf-8", "replace"), 255, *labels[name].encode("utf-8", "replace"), 255):
            made = ((made ^ byte) * 1099511628211) & _MASK
    return f"{made:016x}"
