"""Alerts: folds the journal into episodes, keeps an outbox, and tells each channel on a thread of its own.

Invariant: episodes, what is to be told, and the cursor are one write of the notebook, and nothing is sent before that
write: whatever kills the process, a message comes at least once and always with the id of its row. What never enters:
what an alert means (core/telemetry/alerts/watch.py), how a channel is reached (a Sender is handed in), a wait for one.

A first start on an old ledger folds what is older than HISTORY_S without a message: last week's events page nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.errors import UpstreamFailed
from gateway.core.ports import Clock, Notebook, Reading
from gateway.core.telemetry.alerts import texts
from gateway.core.telemetry.alerts.episodes import MOST_DELIVERIES, Delivery, Episode, Episodes
from gateway.core.telemetry.alerts.outbox import Outbox, Row, Sender
from gateway.core.telemetry.alerts.pace import Pace
from gateway.core.telemetry.alerts.watch import Kept, Streak, Watch
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import AlertRules
from gateway.core.types import Entry

HISTORY_S: Final = 3_600.0
IDLE_S: Final = 1.0  # between two looks at the time while nothing is to be sent
BUSY_S: Final = 0.2  # while a channel is being told: its answer is to be written down
PASSED_MOST: Final = 5  # looks at the time that are passed over because something is unread
BEHIND_S: Final = 5.0  # what is unread for longer says that it is behind
_SINCE: Final = "since"
_COUNTS: Final = "counts"

_encode = msgspec.msgpack.Encoder().encode
Result = tuple[str, str, str | None]  # channel, message id, why it failed


class Counts(Struct):
    """Messages of one channel over the life of the notebook."""

    delivered: int = 0
    failed: int = 0  # tries that failed
    given_up: int = 0
    dropped: int = 0


class Courier:
    """Tells one channel, one message at a time, on a thread that is started with the first."""

    def __init__(self, sender: Sender, done: SimpleQueue[Result]) -> None:
        self._sender = sender
        self._done = done
        self._todo: SimpleQueue[Row | None] = SimpleQueue()
        self._started = False

    def take(self, row: Row) -> None:
        """Gives back at once."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._work, name=f"alert-{self._sender.name}", daemon=True).start()
        self._todo.put(row)

    def close(self) -> None:
        """Ends the thread after the message that it is at."""
        self._todo.put(None)

    def _work(self) -> None:
        while (row := self._todo.get()) is not None:
            why: str | None = None
            try:
                self._sender.send(row.message, row.left_out)
            except UpstreamFailed as failure:
                why = str(failure)
            except Exception as defect:  # noqa: BLE001  counted as `failed`; a library's text may quote a secret
                why = f"{type(defect).__name__} in the channel"
            self._done.put((row.channel, row.message.message_id, why))


class Alerts:
    """Implements ports.Projection."""

    name = "alerts"

    def __init__(
        self,
        sources: tuple[Notebook, Reading],
        rules: AlertRules,
        senders: Sequence[Sender],
        health: Health,
        clock: Clock,
    ) -> None:
        self._notebook, self._reading = sources
        self._rules = rules
        self._health = health
        self._clock = clock
        self._done: SimpleQueue[Result] = SimpleQueue()
        self._couriers = {sender.name: Courier(sender, self._done) for sender in senders}
        self._busy: set[str] = set()
        self._passed_over = 0
        self._load()
        self._outbox.wake(clock.now())

    @property
    def cursor(self) -> int:
        """See `ports.Projection`."""
        return self._notebook.cursor

    def apply(self, entries: Sequence[Entry]) -> None:
        """See `ports.Projection`. Raises StoreFailed; its driver then makes it anew from its notebook."""
        for entry in entries:
            self._watch.take(entry, quiet=entry.at < self._since)
        self._write(entries[-1].seq if entries else None)
        self._hand_out(self._clock.now())

    def tick(self, now: float) -> float:
        """See `ports.Projection`. Raises StoreFailed, as `apply`."""
        while not self._done.empty():
            self._note(self._done.get(), now)
        if self._abreast(now):  # else it only looks as if all were quiet
            self._watch.sweep(now, self._health.all())
        self._write(None)
        self._hand_out(now)
        self._tell_health()
        if self._busy:
            return BUSY_S
        due_at = self._outbox.next_at(self._busy)
        return IDLE_S if due_at is None else max(0.0, min(IDLE_S, due_at - now))

    def close(self) -> None:
        """Lets the threads end."""
        for courier in self._couriers.values():
            courier.close()

    def _abreast(self, now: float) -> bool:
        """Has it read what there is? Under load something is always unread: then what is young does no harm."""
        unread = self._reading.entries(self._notebook.cursor, limit=1)
        self._passed_over = self._passed_over + 1 if unread else 0
        return not unread or (self._passed_over > PASSED_MOST and now - unread[0].at < BEHIND_S)

    # ----------------------------------------------------------------------- the notebook

    def _load(self) -> None:
        book, decode = self._notebook, msgspec.msgpack.decode
        since = book.get(_SINCE)
        if since is None:
            since = _encode(self._clock.now() - HISTORY_S)
            book.write({_SINCE: since})
        self._since = decode(since, type=float)
        counts = book.get(_COUNTS)
        self._counts = decode(counts, type=dict[str, Counts]) if counts is not None else {}
        self._counted = False
        self._episodes = Episodes(texts.told, [decode(raw, type=Episode) for _, raw in book.all("episode/")])
        self._outbox = Outbox(self._couriers, [decode(raw, type=Row) for _, raw in book.all("row/")])
        kept = Kept(
            {key.partition("/")[2]: decode(raw, type=Pace) for key, raw in book.all("pace/")},
            {key.partition("/")[2]: decode(raw, type=Streak) for key, raw in book.all("streak/")},
        )
        self._watch = Watch(self._reading, self._episodes, self._rules, kept)

    def _write(self, cursor: int | None) -> None:
        """Everything that changed, in one write."""
        now = self._clock.now()
        for message in self._episodes.to_tell:
            for row, gone in self._outbox.add(message, now):
                for old in gone:
                    self._counts_of(old.channel).dropped += 1
                    self._deliver(old, "dropped", now)
                self._deliver(row, "pending", now)
        episodes, _ = self._episodes.take()
        changes: dict[str, bytes | None] = {}
        changes.update(_kept("episode", episodes))
        changes.update(_kept("pace", self._watch.paces.take()))
        changes.update(_kept("streak", self._watch.take_streaks()))
        changes.update({key: None if row is None else _encode(row) for key, row in self._outbox.take().items()})
        if self._counted:
            changes[_COUNTS] = _encode(self._counts)
        if not changes and cursor is None:
            return
        self._notebook.write(changes, cursor)
        self._counted = False

    # ----------------------------------------------------------------------- channels

    def _hand_out(self, now: float) -> None:
        for row in list(self._outbox.due(now, self._busy)):
            self._busy.add(row.channel)
            self._couriers[row.channel].take(row)

    def _note(self, result: Result, now: float) -> None:
        """What became of a message on a channel."""
        channel, message_id, why = result
        self._busy.discard(channel)
        row = self._outbox.find(channel, message_id)
        if row is None:  # it gave way while it was being sent
            return
        counts = self._counts_of(channel)
        if why is None:
            counts.delivered += 1
            self._outbox.sent(row)
            self._deliver(row, "delivered", now)
            return
        counts.failed += 1
        if self._outbox.failed(row, why, now):
            self._deliver(row, "pending", now)
        else:
            counts.given_up += 1
            self._deliver(row, "failed", now)

    def _deliver(self, row: Row, state: str, now: float) -> None:
        """Notes it where `/api/alerts` reads it."""
        episode = self._episodes.touched(row.message.alert_id)
        if episode is None:
            return
        found = next((one for one in reversed(episode.deliveries) if _is_of(one, row)), None)
        if found is None:
            found = Delivery(row.message.message_id, row.channel, state, now)
            episode.deliveries = [*episode.deliveries, found][-MOST_DELIVERIES:]
        found.state, found.at = state, now
        found.attempts, found.last_error = row.attempts, row.last_error

    def _counts_of(self, channel: str) -> Counts:
        self._counted = True
        return self._counts.setdefault(channel, Counts())

    def _tell_health(self) -> None:
        """A row for each channel: what it took, what it never got, and since when something waits."""
        for channel in self._couriers:
            counts, waiting = self._counts.get(channel) or Counts(), self._outbox.waiting(channel)
            self._health.tell(
                f"{self.name}-{channel}",
                sent=counts.delivered,
                rejected=counts.given_up + counts.dropped,
                behind=len(waiting),
                oldest_at=waiting[0].since if waiting else None,
                failures=waiting[0].attempts if waiting else 0,
                last_error=waiting[0].last_error if waiting else "",
            )


def _kept(prefix: str, changed: dict[str, Any]) -> dict[str, bytes | None]:
    return {f"{prefix}/{key}": None if value is None else _encode(value) for key, value in changed.items()}


def _is_of(delivery: Delivery, row: Row) -> bool:
    return (delivery.message_id, delivery.channel) == (row.message.message_id, row.channel)
