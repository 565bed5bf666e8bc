"""OpenMetrics 1.0 text out of integers: exact decimals, exemplars, lines made anew only where they changed.

Invariant: a value is spelled digit by digit from its integer, so no nano-dollar is lost to a float; the text ends with
`# EOF`; an exemplar stands only on a bucket. What never enters: what a value means, I/O, a clock.

prometheus-client's own exposition spells floats, and takes 33 ms of CPU for a full page where this takes 7, or 2 where
nothing moved (tests/bench/metrics.py). Its strict parser reads this text in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gateway.core.telemetry.metrics.families import ALL, FOLDED, Family
from gateway.core.telemetry.metrics.series import Board, Series

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# What is read at a rendering: label values and an integer in the family's scale.
Told = Mapping[str, Sequence[tuple[tuple[str, ...], int]]]
_FOLDED: Final = frozenset(family.name for family in FOLDED)
_SUFFIX: Final = {"counter": "_total", "info": "_info"}


class Page:
    """The text. Remembers the lines of each series until it changes."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, tuple[str, ...]], tuple[tuple[int, int], list[str]]] = {}

    def render(self, board: Board, told: Told) -> str:
        """All families that have something to show; families without a series are left out, head and all."""
        out: list[str] = []
        for family in ALL:
            if family.name in _FOLDED:
                self._folded(out, family, board.of(family))
            elif told.get(family.name):
                out.append(head(family))
                suffix = _SUFFIX.get(family.kind, "")
                out += [
                    f"{family.name}{suffix}{spelled_labels(family, labels)} {decimal(value, family.scale)}\n"
                    for labels, value in told[family.name][: family.most]
                ]
        out.append("# EOF\n")
        return "".join(out)

    def _folded(self, out: list[str], family: Family, found: Sequence[Series]) -> None:
        if found:
            out.append(head(family))
        for series in found:
            key = (family.name, series.labels)
            stamp = (series.total, sum(series.counts))
            known = self._lines.get(key)
            if known is None or known[0] != stamp:
                lines = histogram(family, series) if family.kind == "histogram" else counter(family, series)
                self._lines[key] = known = (stamp, lines)
            out += known[1]


def head(family: Family) -> str:
    """The comments before a family's samples."""
    unit = f"# UNIT {family.name} {family.unit}\n" if family.unit else ""
    return f"# HELP {family.name} {escaped(family.help)}\n# TYPE {family.name} {family.kind}\n{unit}"


def counter(family: Family, series: Series) -> list[str]:
    """One line."""
    return [f"{family.name}_total{spelled_labels(family, series.labels)} {decimal(series.total, family.scale)}\n"]


def histogram(family: Family, series: Series) -> list[str]:
    """Buckets added up, the sum and the count."""
    pairs = _pairs(family, series.labels)
    before = f"{family.name}_bucket{{{pairs}{',' if pairs else ''}le="
    lines, so_far = [], 0
    bounds = [*(spelled(bound) for bound in family.buckets), "+Inf"]
    for bound, count, exemplar in zip(bounds, series.counts, series.exemplars, strict=True):
        so_far += count
        shown = ""
        if exemplar is not None:
            names = ",".join(f'{name}="{escaped(value)}"' for name, value in exemplar.labels)
            shown = f" # {{{names}}} {decimal(exemplar.amount, family.scale)} {exemplar.at:.3f}"
        lines.append(f'{before}"{bound}"}} {so_far}{shown}\n')
    labels = f"{{{pairs}}}" if pairs else ""
    lines.append(f"{family.name}_sum{labels} {decimal(series.total, family.scale)}\n")
    lines.append(f"{family.name}_count{labels} {so_far}\n")
    return lines


def spelled_labels(family: Family, values: Iterable[str]) -> str:
    """`{a="b"}`, or nothing; a label without a value is no label."""
    pairs = _pairs(family, values)
    return f"{{{pairs}}}" if pairs else ""


def _pairs(family: Family, values: Iterable[str]) -> str:
    return ",".join(
        f'{label.name}="{escaped(value)}"' for label, value in zip(family.labels, values, strict=True) if value
    )


def escaped(text: str) -> str:
    """As the format asks for it, in help texts and between quotes."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text.encode("utf-8", "replace").decode()


def decimal(value: int, scale: int) -> str:
    """An integer of so many parts as a decimal, exactly."""
    if scale == 1:
        return str(value)
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value), scale)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".") if part else f"{sign}{whole}"


def spelled(bound: float) -> str:
    """A bucket's bound in Go's spelling, which Prometheus before version 3 compares as text."""
    plain = repr(bound)
    if bound < 1e6:
        return plain
    digits = plain.removesuffix(".0")
    return f"{digits[0]}.{digits[1:]}".rstrip("0").rstrip(".") + f"e+{len(digits) - 1:02d}"
