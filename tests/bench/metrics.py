"""What metrics cost: folding entries of the journal, rendering a full page, and prometheus-client for the same page.

`python -m tests.bench.metrics` prints CPU of this process, of a page the best of several rounds; it judges nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest

from gateway.core.telemetry.health import Health
from gateway.core.telemetry.metrics import families
from gateway.core.telemetry.metrics.exposition import Page, Told
from gateway.core.telemetry.metrics.series import Board, Exemplar
from gateway.projections.metrics import Metrics, Shown
from gateway.stores.notebook import SqliteNotebook
from tests.core.telemetry.metrics.metering import Life, read
from tests.ledgers import opened, sqlite

ROUNDS = 7
CALLS = 4_000


def best(work: Callable[[], object]) -> float:
    """Milliseconds of CPU."""
    found = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found) * 1_000


def full() -> tuple[Board, Told]:
    """As many series as there may be, exemplars in their buckets."""
    board, exemplar = Board(), Exemplar("f" * 32, "run-1234567", 123_456_789, 1_800_000_000.0)
    for number in range(200):
        for family in families.FOLDED:
            values = tuple(
                f"{label.name}-{number}" if label.sort == "free" else f"word{number % 5}" for label in family.labels
            )
            if family.kind == "histogram":
                board.observe(family, values, 10**8 * (number % 50), exemplar)
            else:
                board.add(family, values, 10**8 + number)
    gauges = [family for family in families.TOLD if family.kind != "info"]
    return board, {
        family.name: [(tuple(f"x{n}" for _ in family.labels), n * 10**9) for n in range(family.most)]
        for family in gauges
    }


class Known:
    """What was parsed, for prometheus-client to write."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        """Implements Collector."""
        return self._found


def rendering() -> None:
    """A full page."""
    board, told = full()
    page = Page()
    text = page.render(board, told)
    print(f"a page of {text.count(chr(10)):,} lines, {len(text) // 1024} KB")
    print(f"  every line anew      {best(lambda: Page().render(board, told)):6.1f} ms")
    print(f"  where nothing moved  {best(lambda: page.render(board, told)):6.1f} ms")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Known(read(text).values()))
    print(f"  prometheus-client    {best(lambda: generate_latest(registry)):6.1f} ms")


async def folding() -> None:
    """Calls in a ledger on disk, read and folded in batches as the driver does."""
    with tempfile.TemporaryDirectory() as folder:
        life = Life(1, runs=50, turbulent=False)
        async with opened(sqlite(Path(folder), life.clock)) as store:
            life.store = store  # type: ignore[assignment]  # either has what it needs
            await life.live(CALLS)
            reading = store.reading()
            one = Metrics(SqliteNotebook(Path(folder, "m.sqlite3")), reading, Health(), Shown(), Path(folder, "m.txt"))
            begun, count = time.process_time(), 0
            while entries := reading.entries(one.cursor, limit=500):
                one.apply(entries)
                count += len(entries)
            each = (time.process_time() - begun) / count
            print(f"folding {count:,} entries   {each * 1e6:6.0f} us each, the notebook's writes included")


if __name__ == "__main__":
    rendering()
    asyncio.run(folding())
