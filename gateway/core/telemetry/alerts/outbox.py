"""The outbox: what is to be told on which channel, and when it is tried again.

Invariant: a row stays until its channel took it, or GIVE_UP_S have passed, or room was needed: what is left out is
counted, and the count is said with the row that came instead. Of one alert a channel gets one message after the other.
What never enters: I/O, a clock, chance (the spread of the repeats comes from the row's own id).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Protocol

from msgspec import Struct

from gateway.core.telemetry.alerts.episodes import Message

MOST_ROWS: Final = 500  # of one channel
FIRST_S: Final = 4.0  # http.md section 5: sent again first after at most 5 s
LONGEST_S: Final = 3_600.0
GIVE_UP_S: Final = 86_400.0
_SPREAD: Final = 0.2


class Row(Struct):
    """One message for one channel. left_out: how many of its kind were dropped for want of room before it."""

    message: Message
    channel: str
    since: float  # when it was put in
    due_at: float
    attempts: int = 0
    last_error: str = ""
    left_out: int = 0

    @property
    def key(self) -> str:
        """Where a notebook keeps it."""
        return f"row/{self.channel}/{self.message.message_id}"


class Sender(Protocol):
    """One channel. Used by one thread at a time."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message, left_out: int) -> None:
        """Returns once it was taken. Raises UpstreamFailed with a sentence of ours; ends within seconds."""
        ...


class Outbox:
    """The rows of all channels, each channel's in the order in which they were made."""

    def __init__(self, channels: Iterable[str], rows: Iterable[Row] = ()) -> None:
        self._of: dict[str, dict[str, Row]] = {name: {} for name in channels}
        for row in sorted(rows, key=lambda row: (row.since, row.message.made_at)):
            if row.channel in self._of:
                self._of[row.channel][row.message.message_id] = row
        self.dirty: dict[str, Row | None] = {}

    def add(self, message: Message, at: float) -> Iterator[tuple[Row, list[Row]]]:
        """One row for each channel, with those that it takes the place of."""
        for channel, rows in self._of.items():
            row = Row(message, channel, at, at)
            gone = []
            while len(rows) >= MOST_ROWS:
                old = _least(rows.values(), message.alertname)
                row.left_out += 1 + old.left_out
                self._drop(old)
                gone.append(old)
            rows[message.message_id] = row
            self.dirty[row.key] = row
            yield row, gone

    def due(self, now: float, busy: Collection[str]) -> Iterator[Row]:
        """The next row of each channel that isn't busy, if its time has come."""
        for channel, rows in self._of.items():
            if channel not in busy:
                found = next((row for row in _first_of_each(rows.values()) if row.due_at <= now), None)
                if found is not None:
                    yield found

    def next_at(self, busy: Collection[str]) -> float | None:
        """When the next row is due on a channel that isn't busy; None: none waits."""
        times = [
            row.due_at for channel, rows in self._of.items() if channel not in busy
            for row in _first_of_each(rows.values())
        ]  # fmt: skip
        return min(times, default=None)

    def sent(self, row: Row) -> None:
        """Its channel took it."""
        row.attempts += 1
        self._drop(row)

    def failed(self, row: Row, error: str, now: float) -> bool:
        """It is tried again later; False: it has been tried for long enough."""
        row.attempts += 1
        row.last_error = error
        if now - row.since >= GIVE_UP_S:
            self._drop(row)
            return False
        row.due_at = now + delay_s(row)
        self.dirty[row.key] = row
        return True

    def wake(self, now: float) -> None:
        """After a start nothing waits for a repeat that a process before this one had put off."""
        for rows in self._of.values():
            for row in rows.values():
                row.due_at = min(row.due_at, now)

    def find(self, channel: str, message_id: str) -> Row | None:
        """A row that is still to be told."""
        return self._of.get(channel, {}).get(message_id)

    def waiting(self, channel: str) -> list[Row]:
        """What this channel has not taken yet, the oldest first."""
        return list(self._of.get(channel, {}).values())

    def oldest_at(self) -> float | None:
        """Since when the oldest row waits."""
        return min((row.since for rows in self._of.values() for row in rows.values()), default=None)

    def take(self) -> dict[str, Row | None]:
        """What changed since the last time."""
        changed, self.dirty = self.dirty, {}
        return changed

    def _drop(self, row: Row) -> None:
        if self._of[row.channel].pop(row.message.message_id, None) is not None:
            self.dirty[row.key] = None


def delay_s(row: Row) -> float:
    """How long until the next try: 4 s, doubling up to an hour, less a part of at most a fifth."""
    digest = hashlib.blake2b(f"{row.key}#{row.attempts}".encode("utf-8", "replace"), digest_size=2).digest()
    part = int.from_bytes(digest, "big") / 65_536 * _SPREAD
    doubled: float = min(LONGEST_S, FIRST_S * 2.0 ** min(row.attempts - 1, 20))
    return doubled * (1 - part)


def _first_of_each(rows: Iterable[Row]) -> Iterator[Row]:
    """Of each alert the oldest row: nobody hears of an end before its beginning."""
    seen: set[str] = set()
    for row in rows:
        if row.message.alert_id not in seen:
            seen.add(row.message.alert_id)
            yield row


def _least(rows: Iterable[Row], alertname: str) -> Row:
    """What gives way: the oldest of the same kind, else the oldest of all."""
    listed = list(rows)
    return next((row for row in listed if row.message.alertname == alertname), listed[0])
