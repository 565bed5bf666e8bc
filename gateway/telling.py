"""The composition of the projections' process: what is told -> notebooks, drivers, threads. The only file that names
every projection.

Invariant: one process at a time works in a ledger's folder; a library is imported only where something needs it. What
never enters: a call, pydantic, what an entry means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from gateway.core.errors import StoreFailed
from gateway.core.ports import Projection, Reading
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import AlertRules, Destination, MetricRules, Telling
from gateway.core.telemetry.spans.span import Section
from gateway.edge.clock import SystemClock
from gateway.edge.projector import Driver, House, Opened, drive
from gateway.stores.folder import METRICS_FILE, Folder
from gateway.stores.notebook import SqliteNotebook
from gateway.stores.reader import LedgerReader

if TYPE_CHECKING:
    from gateway.core.telemetry.alerts.outbox import Sender
    from gateway.projections.otlp.projection import Around

LOCK_LOOK_S = 0.5
_CHANCES = 2.0**64

Log = Callable[[str, dict[str, Any]], None]
Maker = Callable[[Reading, SqliteNotebook], Projection]


class Desk(Struct, frozen=True):
    """What projections are made from, beside their notebook and the journal."""

    telling: Telling
    folder: Path
    clock: SystemClock
    health: Health
    log: Log


def makers(desk: Desk) -> Mapping[str, Maker]:
    """How each projection that is wanted is made, by its name."""
    telling = desk.telling
    made: dict[str, Maker] = {}
    if telling.metrics is not None:
        made["metrics"] = partial(_metrics, desk, telling.metrics)
    if telling.alerts is not None:
        made["alerts"] = partial(_alerts, desk, telling.alerts)
    around = _Around(desk)
    for destination in telling.destinations:
        made[f"otlp-{destination.name}"] = partial(_otlp, destination, around)
    return made


def _metrics(desk: Desk, rules: MetricRules, reading: Reading, notebook: SqliteNotebook) -> Projection:
    from gateway.projections.metrics import Metrics, Shown

    telling = desk.telling
    zones = {watched.zone: ZoneInfo(watched.zone) for watched in telling.budgets}
    shown = Shown(rules, _sections(telling), telling.budgets, zones)
    return Metrics(notebook, reading, desk.health, shown, desk.folder / METRICS_FILE)


def _alerts(desk: Desk, rules: AlertRules, reading: Reading, notebook: SqliteNotebook) -> Projection:
    from gateway.projections.alerts import Alerts

    made: list[Sender] = []
    if rules.channels:  # what they import takes as much memory as all the rest
        from gateway.edge.channels import Heard, senders

        made = [Heard(sender, desk.log) for sender in senders(rules, desk.clock)]
    return Alerts((notebook, reading), rules, made, desk.health, desk.clock)


class _Around:
    """What all destinations share, made with the first: their library takes half a second to import."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._lock = threading.Lock()
        self._made: Around | None = None

    def get(self) -> Around:
        """From any driver's thread."""
        from gateway.projections.otlp import projection as otlp

        with self._lock:
            if self._made is None:
                desk = self._desk
                self._made = otlp.Around(
                    now=desk.clock.now,
                    health=desk.health,
                    say=desk.log,
                    sections=_sections(desk.telling),
                    version=desk.telling.version,
                    instance=desk.clock.new_id("telling"),
                    price_version=desk.telling.price_version,
                )
            return self._made


def _otlp(destination: Destination, around: _Around, reading: Reading, notebook: SqliteNotebook) -> Projection:
    from gateway.projections.otlp.projection import OtlpProjection

    return OtlpProjection(destination, reading, notebook, around.get())


def _sections(telling: Telling) -> dict[str, Section]:
    return {name: Section(placed.preset, placed.host, placed.port) for name, placed in telling.sections.items()}


def tell(
    telling: Telling,
    stop: threading.Event,
    ready: Callable[[], None],
    log: Log,
    make: Callable[[Desk], Mapping[str, Maker]] = makers,
) -> None:
    """Runs what is wanted until `stop`. `ready` is called once it has the folder to itself."""
    clock, folder = SystemClock(), Folder(Path(telling.ledger))
    if not _taken(folder, stop, log):
        return
    house = House(clock, lambda: clock.seed() / _CHANCES, log, Health())
    desk = Desk(telling, folder.path, clock, house.health, log)
    drivers = [Driver(name, partial(_opened, desk, name, maker), house) for name, maker in make(desk).items()]
    ready()
    drive(drivers, stop, log)
    folder.leave()


def _taken(folder: Folder, stop: threading.Event, log: Log) -> bool:
    """Waits until no other process works there; False: told to stop."""
    said = ""
    while not stop.is_set():
        try:
            if folder.take():
                return True
            why = "another process tells of this ledger; this one goes on when that ends"
        except StoreFailed as error:
            why = str(error)
        if why != said:
            log("projections_blocked", {"why": why})
            said = why
        stop.wait(LOCK_LOOK_S)
    return False


@contextmanager
def _opened(desk: Desk, name: str, maker: Maker) -> Iterator[Opened]:
    """A projection over its own file and its own connection to the ledger. Raises StoreFailed."""

    def moved(aside: Path) -> None:
        desk.log("notebook_moved", {"projection": name, "to": str(aside), "why": "it can't be used; begun anew"})

    notebook = SqliteNotebook(desk.folder / f"{name}.sqlite3", moved=moved)
    try:
        reading = LedgerReader(Path(desk.telling.ledger))
        try:
            projection = maker(reading, notebook)
            try:
                yield Opened(projection, reading)
            finally:
                getattr(projection, "close", _nothing)()
        finally:
            reading.close()
    finally:
        notebook.close()


def _nothing() -> None:
    return
