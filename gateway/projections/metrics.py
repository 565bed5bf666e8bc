"""Metrics of the journal: folds it into counters and histograms, and leaves them as a file that `/metrics` hands on.

Invariant: counters and cursor are one write, so an entry counts once, however often this dies; the file is replaced
whole, at most once a second. What never enters: a socket, a registry of the process (prometheus-client's counters begin
at zero with each process, and count what they are told twice, twice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.core.errors import StoreFailed
from gateway.core.ports import Notebook, Reading
from gateway.core.telemetry.changes import Changes
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.metrics import families, standing
from gateway.core.telemetry.metrics.exposition import Page
from gateway.core.telemetry.metrics.folding import Folding
from gateway.core.telemetry.metrics.standing import Standings
from gateway.core.telemetry.settings import MetricRules, Watched
from gateway.core.telemetry.spans.span import Section
from gateway.core.types import Entry

SOON_S: Final = 1.0  # between two renderings
LATEST_S: Final = 10.0  # what is held, and how old a backlog is, changes without an entry


class Shown(Struct, frozen=True):
    """What is known beside the journal. zones: by the names that budgets give."""

    rules: MetricRules = MetricRules()
    sections: Mapping[str, Section] = {}
    budgets: tuple[Watched, ...] = ()
    zones: Mapping[str, tzinfo] = {}


class Metrics:
    """Implements ports.Projection."""

    name = "metrics"

    def __init__(self, notebook: Notebook, reading: Reading, health: Health, shown: Shown, file: Path) -> None:
        """file: what `/metrics` sends. Raises StoreFailed."""
        self._notebook = notebook
        self._reading = reading
        self._health = health
        self._shown = shown
        self._file = file
        self._standings = Standings(shown.budgets, shown.zones)
        self._rendered_at: float | None = None
        self._told_of: frozenset[str] = frozenset()  # projections that the file has
        for change in Changes(reading).of(reading.newest(standing.LATEST)):
            self._standings.note(change)
        self._load()

    @property
    def cursor(self) -> int:
        """See `ports.Projection`."""
        return self._notebook.cursor

    def apply(self, entries: Sequence[Entry]) -> None:
        """See `ports.Projection`. Raises StoreFailed; then the same entries come again."""
        if not entries:
            return
        try:
            self._folding.fold(entries, self._changes)
            self._notebook.write(self._folding.changed(), entries[-1].seq)
        except BaseException:
            self._load()  # half a batch must not stay in mind
            raise
        self._stale = True

    def tick(self, now: float) -> float:
        """See `ports.Projection`. Raises StoreFailed."""
        since = None if self._rendered_at is None else now - self._rendered_at
        others = frozenset(self._health.all())  # after a start they come one by one: without them counters are gone
        if since is None or since < 0 or since >= LATEST_S or (self._is_news(others) and since >= SOON_S):
            self._write(self.text(now))
            self._rendered_at, self._stale, self._told_of = now, False, others
        return SOON_S

    def _is_news(self, others: frozenset[str]) -> bool:
        return self._stale or others != self._told_of

    def text(self, now: float) -> str:
        """Everything, as OpenMetrics. Raises StoreFailed."""
        told = self._standings.budgets(self._reading, now)
        told |= standing.projections(self._health.all(), now)
        told[families.ACTIVE.name] = standing.active(self._reading, self._folding.board)
        told[families.BUILD.name] = [((self._shown.rules.version,), 1)]
        return self._page.render(self._folding.board, told)

    def _load(self) -> None:
        self._folding = Folding(list(self._notebook.all()), self._shown.sections, self._standings)
        self._changes = Changes(self._reading)
        self._page = Page()
        self._stale = True

    def _write(self, text: str) -> None:
        beside = self._file.with_name(f".{self._file.name}.part")
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(self._file)
        except OSError as error:
            raise StoreFailed(f"{self._file} can't be written: {error}") from error
