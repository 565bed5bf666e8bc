"""Calendar windows of budgets: which hour, day or month an instant belongs to, in a named zone.

Invariant: every instant lies in exactly one window of a calendar, and two windows never have the same label, also where
clocks are set: a day may have 23 or 25 hours, an hour that comes twice is two windows. What never enters: a clock (time
is an argument), the zone database (a `tzinfo` is handed in by the settings).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal

from msgspec import Struct

Per = Literal["hour", "day", "month"]


class Window(Struct, frozen=True):
    """From `starts_at` (in it) to `ends_at` (not in it), epoch seconds; `label` ends the names of its accounts."""

    label: str
    starts_at: float
    ends_at: float


class Calendar(Struct, frozen=True):
    """Windows of one length in one zone. `zone` is its name (UTC, Europe/Berlin), `tz` what knows its offsets."""

    per: Per
    zone: str = "UTC"
    tz: tzinfo = UTC

    def at(self, now: float) -> Window:
        """The window that this instant lies in."""
        here = datetime.fromtimestamp(now, tz=self.tz)
        if self.per == "hour":
            return self._hour(now, here)
        day = here.date()
        if self.per == "day":
            return Window(self._label(day.isoformat()), self._midnight(day), self._midnight(day + timedelta(days=1)))
        first = day.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
        return Window(self._label(f"{first:%Y-%m}"), self._midnight(first), self._midnight(following))

    def _hour(self, now: float, here: datetime) -> Window:
        offset = here.utcoffset() or timedelta()
        shift = offset.total_seconds()
        start = (now + shift) // 3600 * 3600 - shift
        # the offset tells the two hours apart that have the same name when clocks are set back
        spelled = f"{here:%Y-%m-%dT%H}" if self.zone == "UTC" else f"{here:%Y-%m-%dT%H%z}"
        return Window(self._label(spelled), start, start + 3600)

    def _midnight(self, day: date) -> float:
        """When this date begins. Where midnight is skipped, the offset before the jump names the jump itself; where it
        comes twice, the first one counts (PEP 495, fold=0)."""
        return datetime(day.year, day.month, day.day, tzinfo=self.tz).timestamp()

    def _label(self, spelled: str) -> str:
        return spelled if self.zone == "UTC" else f"{spelled}@{self.zone.replace('/', ':')}"
