"""A provider's usage report, read: CSV exports of OpenAI (usage, costs) and of Anthropic's console (usage, costs).

Invariant: an amount is summed up exactly and rounded once, to the nano-dollar; a file that isn't understood is refused
with the columns that it has. What never enters: the ledger, a price of ours.

Columns as the exports of 2025 and 2026 name them, in any order, more of them being harmless:
  OpenAI usage      start_time end_time start_time_iso num_model_requests model input_tokens output_tokens
                    input_cached_tokens (a part of input_tokens); older: n_context_tokens_total n_generated_tokens_total
  OpenAI costs      start_time start_time_iso amount_value amount_currency quantity quantity_unit line_item
                    ("gpt-4o-2024-08-06, input"; empty where the export was not grouped)
  Anthropic usage   usage_date_utc model_version usage_input_tokens_no_cache usage_input_tokens_cache_write_5m
                    usage_input_tokens_cache_write_1h usage_input_tokens_cache_read usage_output_tokens
  Anthropic costs   usage_date_utc model ("Claude Haiku 4.5") token_type cost_usd cost_type
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

DAYS: Final = (
    "usage_date_utc", "start_time_iso", "start_time", "date", "day", "usage_date", "timestamp", "bucket_start_time",
)  # fmt: skip
MODELS: Final = ("model_version", "model", "model_name", "snapshot_id", "line_item")
COSTS: Final = ("cost_usd", "amount_value", "amount", "cost", "total_cost", "cost_(usd)")
CURRENCIES: Final = ("amount_currency", "currency")
REQUESTS: Final = ("num_model_requests", "n_requests", "num_requests", "request_count", "requests")
OUTPUTS: Final = ("usage_output_tokens", "output_tokens", "n_generated_tokens_total", "completion_tokens")
# Input as OpenAI counts it: the whole, cached tokens included.
WHOLE: Final = ("input_tokens", "n_context_tokens_total", "prompt_tokens")
CACHED: Final = ("input_cached_tokens", "n_cached_context_tokens_total", "cached_tokens")
# Input as Anthropic counts it: three kinds that add up to the whole.
UNCACHED: Final = ("usage_input_tokens_no_cache", "uncached_input_tokens", "input_tokens_no_cache")
READS: Final = ("usage_input_tokens_cache_read", "cache_read_input_tokens", "input_tokens_cache_read")
WRITES: Final = (
    "usage_input_tokens_cache_write", "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h",
    "cache_creation_input_tokens", "input_tokens_cache_write_5m", "input_tokens_cache_write_1h",
)  # fmt: skip
ALL_MODELS: Final = "all models"
LEAST_DIGITS: Final = 2  # an export that shows cents may leave out zeros at the end
MOST_BYTES: Final = 256 << 20

_OURS_ALONE: Final = {"usage_date_utc", "model_version", "token_type", *UNCACHED, *READS, *WRITES}
_DATE: Final = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2})$")


class UnknownReport(Exception):
    """This file is no usage report that is known here; the message names what it has and what is needed."""


@dataclass
class Line:
    """What a provider says of one model on one day; None where the report doesn't say."""

    day: str  # UTC, 2026-11-20
    model: str
    input_tokens: int | None = None  # all of it, cached parts included
    cached_tokens: int | None = None  # read from a cache
    output_tokens: int | None = None
    requests: int | None = None
    cost: Decimal | None = None
    cost_rows: int = 0

    def add(self, name: str, value: Decimal | None) -> None:
        """Adds one figure of one row."""
        if value is not None:
            known = getattr(self, name)
            setattr(self, name, (known or 0) + (value if name == "cost" else int(value)))

    @property
    def cost_nusd(self) -> int | None:
        """Rounded once, after all rows are summed up."""
        return None if self.cost is None else int(self.cost.scaleb(9).quantize(Decimal(1), ROUND_HALF_EVEN))


@dataclass
class Report:
    """A report, a line for each day and model."""

    provider: str  # openai | anthropic
    lines: dict[tuple[str, str], Line] = field(default_factory=dict)
    digits: int = LEAST_DIGITS  # after the point, as its amounts are stated

    @property
    def states_cost(self) -> bool:
        """Does it say what was billed, or only what was used?"""
        return any(line.cost is not None for line in self.lines.values())

    def rounding_nusd(self, line: Line) -> int:
        """How far a sum of rounded amounts may lie beside the exact one: half of the last digit for each row."""
        return 0 if self.digits >= 9 else line.cost_rows * 10 ** (9 - self.digits) // 2


def read_report(text: str) -> Report:
    """The report in this text. Raises UnknownReport with a sentence for a person."""
    rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff")), delimiter=_delimiter(text)))
    names = _columns(text)
    used = _Columns(names)
    report = Report("anthropic" if _OURS_ALONE & set(names) else "openai")
    for number, row in enumerate(rows, 2):
        plain = {_plain(name): (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        try:
            _take(report, used, plain)
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise UnknownReport(f"line {number} can't be read: {error}") from error
    if not report.lines:
        raise UnknownReport(f"it has no line with a model and an amount; its columns are {', '.join(names)}")
    return report


class _Columns:
    """Which columns of this file say what."""

    def __init__(self, names: Sequence[str]) -> None:
        self.day = _first(DAYS, names)
        self.models = [name for name in MODELS if name in names]
        self.cost = _first(COSTS, names)
        self.currency = _first(CURRENCIES, names)
        self.requests = _first(REQUESTS, names)
        self.output = _first(OUTPUTS, names)
        reads, writes = [n for n in READS if n in names], [n for n in WRITES if n in names]
        uncached = _first(UNCACHED, names)
        whole = _first(WHOLE, names)
        if uncached is not None or reads or writes:  # Anthropic's parts
            self.inputs = [name for name in (uncached or whole, *reads, *writes) if name is not None]
            self.cached = reads
        else:
            self.inputs = [whole] if whole is not None else []
            self.cached = [name for name in CACHED if name in names]
        self.quantity = "quantity" if {"quantity", "line_item"} <= set(names) else None
        counts = self.cost is not None or bool(self.inputs) or self.output is not None
        if self.day is None or not self.models or not counts:
            raise UnknownReport(
                f"it is no usage or cost export that is known here. Its columns are: {', '.join(names) or 'none'}. "
                f"Needed are a day ({', '.join(DAYS[:4])}), a model ({', '.join(MODELS[:2])} or line_item), and tokens "
                f"or a cost ({', '.join(COSTS[:3])}), as OpenAI's and Anthropic's exports have them"
            )


def _take(report: Report, used: _Columns, row: Mapping[str, str]) -> None:
    """Adds one row of the file; one without any figure says that nothing was used."""
    item = next((row[name] for name in used.models if row.get(name)), "")
    cost = _amount(row.get(used.cost or "", ""))
    figures = {
        "requests": _amount(row.get(used.requests or "", "")),
        "output_tokens": _amount(row.get(used.output or "", "")),
        "input_tokens": _sum(row, used.inputs),
        "cached_tokens": _sum(row, used.cached),
    }
    if cost is None and all(not value for value in figures.values()):
        return
    if cost is not None:
        currency = row.get(used.currency or "", "") or "usd"
        if currency.lower() != "usd":
            raise ValueError(f"its amounts are in {currency[:10]}, not in US dollars")
        report.digits = max(report.digits, -min(0, _exponent(cost)))
    model, _, kind = item.partition(",")
    if used.quantity is not None and "token" in row.get("quantity_unit", ""):
        figures |= _of_item(kind, _amount(row.get("quantity", "")))
    key = _day(row[used.day or ""]), model.strip() or ALL_MODELS
    line = report.lines.setdefault(key, Line(*key))
    for name, value in figures.items():
        line.add(name, value)
    line.add("cost", cost)
    line.cost_rows += cost is not None


def _of_item(kind: str, quantity: Decimal | None) -> dict[str, Decimal | None]:
    """Tokens of a line item of OpenAI's costs, such as `gpt-4o, cached input`."""
    if "output" in kind:
        return {"output_tokens": quantity}
    if "input" not in kind:
        return {}
    return {"input_tokens": quantity, "cached_tokens": quantity if "cache" in kind else None}


# --------------------------------------------------------------------------- cells


def _columns(text: str) -> list[str]:
    first = next(csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=_delimiter(text)), [])
    return [_plain(name) for name in first]


def _delimiter(text: str) -> str:
    head = text.split("\n", 1)[0]
    return max(",;\t", key=head.count)


def _plain(name: str) -> str:
    return "_".join(name.strip().lower().split())


def _first(known: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)


def _amount(text: str) -> Decimal | None:
    if not text:
        return None
    value = Decimal(text.replace("$", "").replace(",", "").strip())
    if not value.is_finite() or abs(value) > 10**15:
        raise ValueError(f"{text[:40]!r} is no amount")
    return value


def _sum(row: Mapping[str, str], names: Sequence[str]) -> Decimal | None:
    found = [value for name in names if (value := _amount(row.get(name, ""))) is not None]
    return sum(found, Decimal(0)) if found else None


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _day(text: str) -> str:
    """The UTC day of a date, an instant, or epoch seconds. Raises ValueError."""
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), tz=UTC).date().isoformat()
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo is None else at.astimezone(UTC)).date().isoformat()


# --------------------------------------------------------------------------- names of models


def slug(model: str) -> str:
    """A model's name as ids are spelled: `Claude Haiku 4.5` is claude-haiku-4-5."""
    return "-".join(model.lower().replace(".", "-").replace("_", "-").split())


def family(model: str) -> tuple[str, ...]:
    """The name without its date, its words in any order: consoles write Claude Sonnet 3.7, ids claude-3-7-sonnet."""
    return tuple(sorted(_DATE.sub("", slug(model)).removesuffix("-latest").split("-")))
