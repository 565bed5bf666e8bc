"""Calendar windows of budgets: which hour, day or month an instant belongs to, in a named zone.

Invariant: every instant lies in exactly one window of a calendar, and two windows never have the same label, also where
clocks are set: a day may have 23 or 25 hours, an hour that comes twice is two windows. What never enters: a clock (time
is an argument), the zone database (a `tzinfo` is handed in by the settings).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from math import ceil, floor
from typing import Literal

from msgspec import Struct

Per = Literal["hour", "day", "month"]


class Window(Struct, frozen=True):
    """From `starts_at` (in it) to `ends_at` (not in it), epoch seconds; `label` ends the names of its accounts."""

    label: str
    starts_at: float
    ends_at: float


class Calendar(Struct, frozen=True, cache_hash=True):
    """Windows of one length in one zone. `zone` is its name (UTC, Europe/Berlin), `tz` what knows its offsets.

    Dates follow each other: where clocks are set back over midnight (St John's did at 00:01), the later date has begun
    and stays. An hour ends where its offset does: a zone may be set by half an hour within one (Lord Howe).
    """

    per: Per
    zone: str = "UTC"
    tz: tzinfo = UTC

    def at(self, now: float) -> Window:
        """The window that this instant lies in."""
        here = datetime.fromtimestamp(now, tz=self.tz)
        if self.per == "hour":
            return self._hour(now, here)
        first = self._first(here.date())
        following = self._following(first)
        ends_at = self._midnight(following)
        if now >= ends_at:
            first, following = following, self._following(following)
            ends_at = self._midnight(following)
        spelled = first.isoformat() if self.per == "day" else first.isoformat()[:7]
        return Window(self._label(spelled), self._midnight(first), ends_at)

    def _hour(self, now: float, here: datetime) -> Window:
        offset = _offset(here)
        starts_at = (now + offset) // 3600 * 3600 - offset
        ends_at = starts_at + 3600
        if self._offset_at(starts_at) != offset:
            starts_at = self._change(starts_at, now)
        if self._offset_at(ends_at) != offset:
            ends_at = self._change(now, ends_at)
        # the offset tells the two hours apart that have the same name when clocks are set back
        spelled = f"{here:%Y-%m-%dT%H}" if self.zone == "UTC" else f"{here:%Y-%m-%dT%H%z}"
        return Window(self._label(spelled), starts_at, ends_at)

    def _first(self, day: date) -> date:
        return day if self.per == "day" else day.replace(day=1)

    def _following(self, first: date) -> date:
        return first + timedelta(days=1) if self.per == "day" else (first + timedelta(days=31)).replace(day=1)

    def _midnight(self, day: date) -> float:
        """When this date begins: at the first of two midnights (PEP 495, fold=0), at the jump where it is skipped."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self.tz)
        late = midnight.timestamp()
        early = midnight.replace(fold=1).timestamp()  # before `late` in a gap only: read with the offset after it
        return self._change(early, late) if early < late else late

    def _change(self, before: float, after: float) -> float:
        """The whole second at which the offset of `after` begins."""
        low, high = floor(before), ceil(after)
        offset = self._offset_at(high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._offset_at(middle) == offset else (middle, high)
        return float(high)

    def _offset_at(self, now: float) -> float:
        return _offset(datetime.fromtimestamp(now, tz=self.tz))

    def _label(self, spelled: str) -> str:
        return spelled if self.zone == "UTC" else f"{spelled}@{self.zone.replace('/', ':')}"


def _offset(here: datetime) -> float:
    return (here.utcoffset() or timedelta()).total_seconds()
