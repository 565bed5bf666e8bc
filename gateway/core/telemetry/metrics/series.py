"""Counters and histograms as integers: who gets a series of its own, what is added, what of it must be written down.

Invariant: nothing that was added is lost: a label set that finds no room adds to a spare series, so sums over all
stay exact; a place once given stays, over restarts too, or a counter would seem to fall. What never enters: a float
near money, text of the exposition, I/O (rows come in, changed rows go out).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from gateway.core.telemetry.metrics import families
from gateway.core.telemetry.metrics.families import HISTOGRAM_PLACES, OTHER, PLACES, Family

VALUE_MOST: Final = 2**63 - 1  # what a row can hold; a provider may tell any number of tokens
LONGEST: Final = 100  # characters of a label's value
EXEMPLAR_MOST: Final = 128  # OpenMetrics 1.0, exemplars: characters of all names and values together
MEMO_MOST: Final = 4_096
FINE: Final = 60  # percent of a counter's room for label sets with all their names
_ROW: Final = "series/"
_PLACES: Final = "places"
_PART: Final = "\x1f"
_FEW: Final = 8  # places on histograms where the table names no number
_FOLDED: Final = {family.name: family for family in families.FOLDED}

# Upper bounds of buckets as integers.
_BOUNDS: Final[dict[str, tuple[int, ...]]] = {
    family.name: tuple(round(bound * family.scale) for bound in family.buckets) for family in families.FOLDED
}

_pack = msgspec.msgpack.Encoder().encode


class Exemplar(Struct, frozen=True, array_like=True):
    """One observation that stands for its bucket: which run, in which trace, how much, when."""

    trace: str
    run: str
    amount: int
    at: float

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Both, or the trace alone where a long run id leaves no room beside it."""
        both = (("run_id", self.run), ("trace_id", self.trace))
        fits = sum(len(name) + len(value) for name, value in both) <= EXEMPLAR_MOST
        return both if fits else both[1:]


class Series(Struct, array_like=True):
    """One label set of one family. total: a counter's value, or the sum of a histogram; counts: by bucket, not yet
    added up, the last one beyond all bounds."""

    labels: tuple[str, ...]
    total: int = 0
    counts: list[int] = field(default_factory=list)
    exemplars: list[Exemplar | None] = field(default_factory=list)


_series = msgspec.msgpack.Decoder(Series).decode
_places = msgspec.msgpack.Decoder(dict[str, list[str]]).decode


class Board:
    """All series. Made from the rows that `changed` gave, however they were cut into writes."""

    def __init__(self, rows: Iterable[tuple[str, bytes]] = ()) -> None:
        self._series: dict[str, dict[tuple[str, ...], Series]] = {name: {} for name in _FOLDED}
        self._named: dict[str, list[str]] = {}
        # Whose series a label set was found to be: places and room are never given back, so that stays true.
        self._memo: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._dirty: set[tuple[str, tuple[str, ...]]] = set()
        self._placed = False  # a place was given since the last write
        self._lines = sum(  # of histograms: in use, or promised
            (f.spare + families.SURE.get(f.name, 0)) * f.lines for f in families.FOLDED if f.kind == "histogram"
        )
        self._own = dict.fromkeys(_FOLDED, 0)  # series that aren't spare
        for key, row in rows:
            self._take(key, row)

    # ----------------------------------------------------------------------- adding

    def add(self, family: Family, values: tuple[str, ...], amount: int = 1) -> None:
        """Moves a counter up; 0 makes its series appear."""
        series = self._at(family, values)
        series.total = min(VALUE_MOST, series.total + max(0, amount))
        self._dirty.add((family.name, series.labels))

    def observe(self, family: Family, values: tuple[str, ...], amount: int, exemplar: Exemplar | None = None) -> None:
        """One observation of a histogram."""
        series = self._at(family, values)
        place = bisect_left(_BOUNDS[family.name], amount)
        series.counts[place] += 1
        series.total = min(VALUE_MOST, series.total + max(0, amount))
        if exemplar is not None:
            series.exemplars[place] = exemplar
        self._dirty.add((family.name, series.labels))

    def place(self, group: str, value: str, most: int = PLACES) -> str:
        """The value, if it has a place among those of its label or takes one that is free; else `other`."""
        names = self._named.get(group)
        if names is not None and value in names:
            return value
        if not value.isprintable() or len(value) > LONGEST or (names is not None and len(names) >= most):
            return OTHER
        self._named.setdefault(group, []).append(value)
        self._placed = True
        return value

    def has_place(self, places: str, value: str) -> bool:
        """Does this value stand for itself on counters?"""
        return value in self._named.get(places, ())

    # ----------------------------------------------------------------------- reading

    def of(self, family: Family) -> list[Series]:
        """A family's series in a steady order."""
        return [series for _, series in sorted(self._series[family.name].items())]

    def changed(self) -> dict[str, bytes]:
        """Rows that differ from what was written last; after this they count as written."""
        rows = {_ROW + _PART.join((name, *labels)): _pack(self._series[name][labels]) for name, labels in self._dirty}
        if self._placed:
            rows[_PLACES] = _pack(self._named)
        self._dirty.clear()
        self._placed = False
        return rows

    # ----------------------------------------------------------------------- room

    def _at(self, family: Family, values: tuple[str, ...]) -> Series:
        found = self._memo.get((family.name, values))
        if found is None:
            found = self._find(family, values)
            if len(self._memo) >= MEMO_MOST:
                self._memo.clear()
            self._memo[family.name, values] = found
        return found

    def _find(self, family: Family, values: tuple[str, ...]) -> Series:
        labels: tuple[str, ...] = ()
        known = self._series[family.name]
        for labels in _coarser(family, self._labels(family, values)):
            if labels in known:
                return known[labels]
            if self._has_room(family, labels):
                break
        known[labels] = found = _fresh(family, labels)
        self._count(family, labels)
        return found

    def _labels(self, family: Family, values: tuple[str, ...]) -> tuple[str, ...]:
        """Free labels as far as they have places; a counter's places are not a histogram's."""
        found = []
        for label, value in zip(family.labels, values, strict=True):
            if label.sort != "free" or not value:
                found.append(value)
            elif family.kind == "histogram":
                most = HISTOGRAM_PLACES.get(label.places, _FEW)
                found.append(self.place(f"histogram {label.places}", value, most))
            else:
                found.append(self.place(label.places, value))
        return tuple(found)

    def _has_room(self, family: Family, labels: tuple[str, ...]) -> bool:
        """Coarse label sets are left a part of the room: sums by the first labels stay right for longer."""
        room = family.most - family.spare
        if family.kind == "histogram":
            own = self._own[family.name]
            fits = self._lines + family.lines <= families.HISTOGRAM_LINES
            return own < room and (fits or own < families.SURE.get(family.name, 0))
        free = [value for label, value in zip(family.labels, labels, strict=True) if label.sort == "free"]
        steps = len(free) - 1
        if steps > 0:
            named = len([value for value in free if value != OTHER]) - 1
            room = room * (100 - (100 - FINE) * max(0, named) // steps) // 100
        return self._own[family.name] < room

    def _count(self, family: Family, labels: tuple[str, ...]) -> None:
        if labels == _spare(family, labels):
            return
        self._own[family.name] += 1
        if family.kind == "histogram" and self._own[family.name] > families.SURE.get(family.name, 0):
            self._lines += family.lines

    def _take(self, key: str, row: bytes) -> None:
        if key == _PLACES:
            self._named = _places(row)
        elif key.startswith(_ROW):
            family = _FOLDED.get(key[len(_ROW) :].partition(_PART)[0])
            series = _series(row)
            if family is not None and len(series.labels) == len(family.labels) and _fits(family, series):
                self._series[family.name][series.labels] = series
                self._count(family, series.labels)


def _coarser(family: Family, labels: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A label set, and where it goes that finds no room: a counter loses its free labels from the last to the first,
    a histogram all at once."""
    yield labels
    if family.kind != "histogram":
        free = [index for index, label in enumerate(family.labels) if label.sort == "free"]
        for first in range(len(free) - 1, 0, -1):
            yield tuple([OTHER if index in free[first:] else value for index, value in enumerate(labels)])
    yield _spare(family, labels)


def _spare(family: Family, labels: Sequence[str]) -> tuple[str, ...]:
    """The last resort, which has its room from the beginning: closed labels stay, so that kinds stay apart."""
    spare = list(labels)
    for index, label in enumerate(family.labels):
        if label.sort == "free":
            spare[index] = OTHER
        elif label.sort == "error" and spare[index]:
            spare[index] = "_OTHER"
    return tuple(spare)


def _fresh(family: Family, labels: tuple[str, ...]) -> Series:
    if family.kind != "histogram":
        return Series(labels)
    many = len(family.buckets) + 1
    return Series(labels, 0, [0] * many, [None] * many)


def _fits(family: Family, series: Series) -> bool:
    """Was it written with these buckets?"""
    return len(series.counts) == (len(family.buckets) + 1 if family.kind == "histogram" else 0)


def scaled(value: float, scale: int) -> int:
    """A float of the family's unit as an integer, to the microsecond where it is a time."""
    return round(value * 1e6) * 1000 if scale != 1 else round(value)
