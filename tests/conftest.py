"""What all tests share: which ones were skipped is said aloud, by what they lacked, just above the closing line."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from tests.loops import Factory, factories

# `make test-long` looks much further; the default keeps the whole suite short.
hypothesis.settings.register_profile("short", max_examples=100, deadline=None)
hypothesis.settings.register_profile("long", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile("long" if os.environ.get("METERBOX_TEST_LONG") else "short")

LACKS = ("server", "shared", "go")


def lack(item_keywords: object, reason: str) -> str:
    """What a skipped test lacked: by its marker, else by what its reason names."""
    if "server" in item_keywords:  # type: ignore[operator]  # pytest's own mapping of names
        return "server"
    if "../shared" in reason:
        return "shared"
    return "go" if reason.lower().startswith("go is missing") else "other"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per lack, also where it is zero: .ci/run reads these."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        counts[lack(report.keywords, reason.removeprefix("Skipped: "))] += 1
    for name in (*LACKS, "other"):
        terminalreporter.write_line(f"skipped for lack of {name}: {counts[name]}")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Factory]:
    """What serves is what is tested: asyncio's own loop comes second, where it matters."""
    module = item.getparent(pytest.Module)
    return factories(module.obj.__name__ if module is not None else "")


@pytest.fixture(autouse=True, scope="module")
def _own_leaks() -> Iterator[None]:
    """What a module's tests leave to the collector is collected at its end: the blame falls where it belongs."""
    yield
    gc.collect()
