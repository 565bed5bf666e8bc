"""What the committed dashboards ask: every panel and every query of it, as Grafana would send it.

Invariant: read from the JSON that Grafana is given, not from the source that makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
PROMETHEUS, INFINITY = "prometheus", "yesoreyeram-infinity-datasource"
# What Grafana puts in for a reader who has just opened the page.
ALL = {"agent": ".*", "provider": ".*", "model": ".*", "ago": "1s"}  # a week is more than tests live
LABELS = re.compile(r"\b(?:by|on|group_left|without) \([^)]*\)")
METRIC = re.compile(r"\b((?:meterbox|gen_ai|scrape)_[a-zA-Z0-9_]+)(\{[^}]*\})?")


class Question(Struct, frozen=True):
    """One query of one panel."""

    page: str
    panel: str
    kind: str
    target: dict[str, Any]

    @property
    def expression(self) -> str:
        """Its PromQL as it stands in the file."""
        said: str = self.target["expr"]
        return said

    @property
    def name(self) -> str:
        """Where it stands, for people."""
        return f"{self.page}: {self.panel} ({self.target['refId']})"


def pages() -> dict[str, dict[str, Any]]:
    """Every committed dashboard by its file's name."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def panels(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its panels, headings left out."""
    return [panel for panel in page["panels"] if panel["type"] != "row"]


def questions() -> Iterator[Question]:
    """Every query of every panel."""
    for file, page in pages().items():
        for panel in panels(page):
            for target in panel.get("targets", []):
                yield Question(file, panel["title"], target["datasource"]["type"], target)


def filled(expression: str, range_: str = "1h", **values: str) -> str:
    """An expression with its variables filled in."""
    for name, value in {**ALL, **values}.items():
        expression = expression.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return expression.replace("$__range", range_)


def bare(expression: str) -> str:
    """Without what makes a blank figure a zero: then nothing stays nothing."""
    return expression.removesuffix(" or vector(0)")


def selectors(expression: str) -> set[str]:
    """Every series selector in it: what must exist for the expression to say anything."""
    return {name + (where or "") for name, where in METRIC.findall(LABELS.sub("", expression))}


def metrics(expression: str) -> set[str]:
    """The metrics that it names."""
    return {name for name, _ in METRIC.findall(LABELS.sub("", expression))}
