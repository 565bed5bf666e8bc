"""Alerts as `/api` shows them: read from the notebook of the process that sends them, never written there.

Invariant: a read is a read-only connection on the control plane's reading thread; an answer of a person that the other
process has not read yet counts already. What never enters: HTTP, which entry means what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.errors import ConfigError, UpstreamFailed
from gateway.core.ports import Clock, Reading
from gateway.core.refusal import rfc3339
from gateway.core.telemetry.alerts import texts
from gateway.core.telemetry.alerts.episodes import Delivery, Episode
from gateway.core.telemetry.alerts.outbox import Sender
from gateway.core.telemetry.alerts.webhook import trial
from gateway.core.telemetry.settings import AlertRules
from gateway.edge import api_alert_models as m
from gateway.edge.channels import senders
from gateway.stores.notebook import SqliteNotebook

MOST_UNREAD = 500  # entries of the journal that are looked through for answers of people
_PREFIX = "episode/"
_LAST = 253402300799.0  # the last instant that can be spelled

_episode = msgspec.msgpack.Decoder(Episode).decode
_any = msgspec.msgpack.Decoder().decode


class AlertBook:
    """The notebook `alerts.sqlite3`, read. file: None where no process of projections can be."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def page(self, reading: Reading, now: float, limit: int, cursor: str | None) -> m.AlertPage:
        """A page, the latest first. Raises ValueError for a cursor that no page gave, StoreFailed."""
        if cursor is not None and not cursor.startswith("al_"):
            raise ValueError("the cursor is not one that a page gave")
        found, after = self._kept()
        rows = [raw for key, raw in found if cursor is None or key < _PREFIX + cursor]
        chosen = [_episode(raw) for raw in reversed(rows[-limit:])]
        _answered(chosen, reading, after)
        items = [item_of(one, now) for one in chosen]
        more = len(rows) > len(chosen)
        return m.AlertPage.model_construct(items=items, next_cursor=chosen[-1].alert_id if more else None)

    def knows(self, alert_id: str) -> bool:
        """Is there such an alert? Raises StoreFailed."""
        if self._file is None or not self._file.exists():
            return False
        book = SqliteNotebook(self._file, read_only=True)
        try:
            return book.get(_PREFIX + alert_id) is not None
        finally:
            book.close()

    def _kept(self) -> tuple[list[tuple[str, bytes]], int]:
        """All episodes by their ids, which sort by time, and how far the journal was read for them."""
        if self._file is None or not self._file.exists():
            return [], 0
        book = SqliteNotebook(self._file, read_only=True)
        try:
            return list(book.all(_PREFIX)), book.cursor
        finally:
            book.close()


def _answered(episodes: list[Episode], reading: Reading, after: int) -> None:
    """Lays over what people said since the notebook was written."""
    by_id = {one.alert_id: one for one in episodes}
    for entry in reading.entries(after, None, MOST_UNREAD) if by_id else ():
        if entry.kind in ("mute", "ack"):
            data: dict[str, Any] = _any(entry.data)
            found = by_id.get(str(data.get("alert_id")))
            if found is not None and entry.kind == "mute":
                found.muted_until = float(data.get("until") or 0.0)
            elif found is not None and found.acked_at is None:
                found.acked_at = entry.at


def item_of(episode: Episode, now: float) -> m.AlertItem:
    """An episode as an answer."""
    muted = episode.muted_until if episode.muted_until > now else None
    last_at = episode.last_at if episode.over_at is None else episode.over_at
    return m.AlertItem.model_construct(
        alert_id=episode.alert_id,
        state=episode.state(now),
        labels={"alertname": episode.alertname, "severity": episode.severity, **episode.labels},
        annotations=texts.told(episode),
        first_at=rfc3339(episode.first_at),
        last_at=rfc3339(last_at),
        muted_until=None if muted is None else rfc3339(min(muted, _LAST)),
        acked_at=None if episode.acked_at is None else rfc3339(episode.acked_at),
        deliveries=[_delivery(one) for one in episode.deliveries],
    )


def _delivery(one: Delivery) -> m.DeliveryItem:
    return m.DeliveryItem.model_construct(
        channel=one.channel,
        state=one.state,
        attempts=one.attempts,
        last_error=one.last_error or None,
        at=rfc3339(one.at),
    )


# --------------------------------------------------------------------------- a test message


def send_trial(channels: Sequence[Sender], clock: Clock) -> Iterator[m.TrialItem]:
    """One message to every channel, one after the other; what became of it."""
    message = trial(clock.new_id("msg"), clock.now())
    for sender in channels:
        try:
            sender.send(message, 0)
        except UpstreamFailed as failure:
            yield m.TrialItem(channel=sender.name, taken=False, error=str(failure))
        else:
            yield m.TrialItem(channel=sender.name, taken=True, error=None)


async def tried(rules: AlertRules | None, clock: Clock) -> m.Trials:
    """The same off the loop, all channels at once; made anew, so that it is the configuration that is tried."""

    def one(sender: Sender) -> list[m.TrialItem]:
        return list(send_trial([sender], clock))

    try:
        made = await asyncio.to_thread(senders, rules, clock) if rules is not None else []
    except ConfigError as error:
        return m.Trials(items=[m.TrialItem(channel="", taken=False, error=str(error))])
    found = await asyncio.gather(*(asyncio.to_thread(one, sender) for sender in made))
    return m.Trials(items=[item for items in found for item in items])
