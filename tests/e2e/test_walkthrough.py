"""Claims about docs/walkthrough.md: lived again, the night goes as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.observing import missing
from tests.walkthrough import PAGE, live

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


def stable(page: str) -> list[str]:
    """What does not depend on the hour or the machine: prose, headings, commands, and how each output begins."""
    kept: list[str] = []
    parts = re.split(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    for place, part in enumerate(parts):
        if place % 3 == 0:
            kept.append(" ".join(part.split()))
        elif place % 3 == 2:
            lines = part.splitlines()
            kept += lines[: 2 if lines[0].startswith("$ ") else 1]
    return [re.sub(r"\s+", " ", re.sub(r"[\d,.]*\d", "#", re.sub(r"\bal_\w+", "ID", line))) for line in kept]


def test_what_is_stable() -> None:
    """Figures, ids and widths may differ; words may not."""
    page = "It was\n12:03.\n\n```console\n$ meterbox runs\nRUN   SPENT\nr  $1.03\n```\n\nThen $4.\n"
    other = page.replace("12:03", "7:59").replace("$1.03", "$22.7").replace("   ", " ")
    assert stable(page) == stable(other) == ["It was #:#.", "$ meterbox runs", "RUN SPENT", "Then $#."]
    assert stable(page) != stable(page.replace("runs", "run"))


async def test_the_page_is_what_the_night_says(tmp_path: Path) -> None:
    """Alert, dashboard, run, call, cause, kill, bill: each step's words are those of the page (`make walkthrough`)."""
    if lacks := missing():
        pytest.skip(lacks)
    assert stable(PAGE.read_text(encoding="utf-8")) == stable(await live(tmp_path))
