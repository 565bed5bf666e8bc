"""What a provider's report says beside what the ledger says, by UTC day and model: the difference and what explains it.

Invariant: read-only; every call that was sent to the provider on a day of the report counts on exactly one line; sums
are exact. What never enters: booking (booking.py), how a report is spelled (report.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gateway.cli.report import ALL_MODELS, Line, Report, family, slug
from gateway.cli.words import count, harmless, money, number, table

if TYPE_CHECKING:
    from gateway.core.ledger.reading import Query
    from gateway.core.types import Exchange

PAGE: Final = 2_000  # journal entries that are read at once
MARGIN_S: Final = 7_200.0  # a call stands in the journal after it began, by the store's clock


@dataclass
class Row:
    """One day and model: what is billed, what was charged, and the calls that it was charged for."""

    day: str
    model: str
    billed: Line | None = None
    rounding_nusd: int = 0
    calls: list[Exchange] = field(default_factory=list)

    @property
    def ours_nusd(self) -> int:
        """What the ledger charged; a call of unknown cost adds nothing, and is said."""
        return sum(call.cost_nusd or 0 for call in self.calls)

    @property
    def by_source(self) -> dict[str, int]:
        """Nano-dollars by where the figure comes from."""
        found: Counter[str] = Counter()
        for call in self.calls:
            found[call.cost_source] += call.cost_nusd or 0
        return dict(found)

    def tokens(self, name: str) -> int:
        """What the answers told of one kind of tokens."""
        return sum(getattr(call.usage, name) or 0 for call in self.calls if call.usage is not None)

    @property
    def difference_nusd(self) -> int | None:
        """Billed less charged; None where the report states no cost."""
        billed = 0 if self.billed is None else self.billed.cost_nusd
        return None if billed is None else billed - self.ours_nusd

    def difference(self, theirs: str, ours: str) -> int | None:
        """Tokens of the report less those that the answers told; None where the report doesn't state them."""
        stated = 0 if self.billed is None else getattr(self.billed, theirs)
        return None if stated is None else stated - self.tokens(ours)

    @property
    def tolerance_nusd(self) -> int:
        """Rounding: half of the report's last digit for each of its rows, a nano-dollar for each of our calls."""
        return self.rounding_nusd + len(self.calls)

    @property
    def agrees(self) -> bool:
        """No difference beyond rounding."""
        if abs(self.difference_nusd or 0) > self.tolerance_nusd:
            return False
        return not any(self.difference(theirs, ours) for theirs, ours in TOKENS)


TOKENS: Final = (
    ("input_tokens", "input_tokens"),
    ("cached_tokens", "cache_read_tokens"),
    ("output_tokens", "output_tokens"),
)


_TOKEN_HEADS: Final = tuple(
    (head, *names) for head, names in zip(("IN +/-", "CACHED +/-", "OUT +/-"), TOKENS, strict=True)
)


def compare(report: Report, calls: Iterable[Exchange]) -> list[Row]:
    """A row for each day and model that either side knows, on the days from the report's first to its last."""
    rows = {
        key: Row(*key, line, report.rounding_nusd(line)) for key, line in report.lines.items()
    }  # fmt: skip
    first, last = min(day for day, _ in rows), max(day for day, _ in rows)
    spelled = _Names(model for _, model in rows)
    for call in calls:
        day = day_of(call)
        if first <= day <= last:
            key = day, spelled.of(call)
            rows.setdefault(key, Row(*key)).calls.append(call)
    if not report.states_cost:
        for row in rows.values():  # what isn't stated for any model is not a bill of nothing
            row.billed = row.billed or Line(row.day, row.model, 0, None, 0)
    return [rows[key] for key in sorted(rows)]


class _Names:
    """Which of the report's models a call belongs to."""

    def __init__(self, models: Iterable[str]) -> None:
        self._models = sorted(set(models))
        self._exact = {slug(model): model for model in self._models}
        alike = Counter(family(model) for model in self._models)
        self._alike = {family(model): model for model in self._models if alike[family(model)] == 1}

    def of(self, call: Exchange) -> str:
        """The report's own spelling; a model that it doesn't have keeps ours."""
        if self._models == [ALL_MODELS]:
            return ALL_MODELS
        name = call.response_model or call.request_model or "-"
        return self._exact.get(slug(name)) or self._alike.get(family(name)) or name


# --------------------------------------------------------------------------- our side


def day_of(call: Exchange) -> str:
    """The UTC day on which a call began: that is where providers count it."""
    return datetime.fromtimestamp(call.started_at, tz=UTC).date().isoformat()


def calls_of(query: Query, sections: Sequence[str], days: tuple[str, str]) -> list[Exchange]:
    """Every call that was sent to these sections on these days, with what was learnt of it later."""
    from gateway.core.ledger.reading import laid_over

    begins, ends = (datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() for day in days)
    told: dict[str, bytes] = {}
    later: dict[str, list[bytes]] = {}
    for kind, call_id, data in _entries(query, _first_seq(query, begins - MARGIN_S)):
        if kind != "call":
            if call_id in told:
                later.setdefault(call_id, []).append(data)
            continue
        call = laid_over(data, ())
        sent = bool(call.attempts) and call.provider in sections
        if sent and begins <= call.started_at < ends + 86_400:
            told[call_id] = data
    whole = [laid_over(data, later.get(call_id, ())) for call_id, data in told.items()]
    return [call for call in whole if call.cost_source != "refused" or call.cost_nusd]


def _first_seq(query: Query, at: float) -> int:
    """The journal's number before the first entry of that instant: entries stand in the order of their time."""
    low, high = (query(f"SELECT coalesce({word}(seq), 0) FROM journal", ())[0][0] for word in ("min", "max"))  # noqa: S608  two words
    while low < high:
        middle = (low + high) // 2
        row = query("SELECT at FROM journal WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,))
        if row and row[0][0] < at:
            low = middle + 1
        else:
            high = middle
    return int(low) - 1


def _entries(query: Query, after: int) -> Iterator[tuple[str, str, bytes]]:
    while True:
        page = query(
            "SELECT seq, kind, call_id, data FROM journal WHERE seq > ? AND kind IN ('call', 'amend', 'correct')"
            " ORDER BY seq LIMIT ?",
            (after, PAGE),
        )
        for _, kind, call_id, data in page:
            yield kind, call_id, data
        if len(page) < PAGE:
            return
        after = page[-1][0]


def days_of(report: Report) -> tuple[str, str]:
    """The first and the last day that a report has a line of."""
    days = sorted(day for day, _ in report.lines)
    return days[0], days[-1]


# --------------------------------------------------------------------------- words


def explain(row: Row) -> list[str]:
    """What may be behind a difference, the likeliest first; nothing where both sides agree."""
    if row.agrees:
        return []
    if not row.calls:
        return ["the gateway saw no call of this model on this day: it went past it, or another key was used"]
    if row.billed is None:
        return ["the report has no line of it: not billed yet, or the report is of other keys or projects"]
    said = [*_of_sources(row), *_of_requests(row)]
    if said:
        return said
    tokens = [row.difference(theirs, ours) for theirs, ours in TOKENS]
    if all(one is None for one in tokens):
        return ["the price differs, or calls went past the gateway: the report states no tokens that could tell"]
    if not any(tokens):
        return ["the tokens agree: the price differs (`meterbox prices` shows ours; [[prices.overrides]] has your own)"]
    return ["the provider counted other tokens than its answers told, or calls went past the gateway"]


def _of_sources(row: Row) -> Iterator[str]:
    for source, words in (
        ("presumed", "of unknown outcome, charged at the most that {they} can cost"),
        ("estimate", "charged by an estimate (cut by the gateway, or settled by hand)"),
        ("unknown_model", "of a model without a known price, charged nothing"),
        ("no_usage", "whose answer told no usage, charged nothing"),
    ):
        found = [call for call in row.calls if call.cost_source == source]
        if found:
            nusd = sum(call.cost_nusd or 0 for call in found)
            cost = f": {money(_usd(nusd))}" if nusd else ""
            yield f"{count(len(found), 'call')} {words.format(they='it' if len(found) == 1 else 'they')}{cost}"


def _of_requests(row: Row) -> Iterator[str]:
    requests = row.billed.requests if row.billed is not None else None
    if requests is not None and requests != len(row.calls):
        why = "calls went past the gateway" if requests > len(row.calls) else "some were not billed"
        yield f"the provider counts {count(requests, 'request')}, the gateway {number(len(row.calls))}: {why}"


def drawn(rows: Sequence[Row]) -> str:
    """The comparison as a table, each difference with its explanation below."""
    stated = [
        (head, *names) for head, *names in _TOKEN_HEADS if any(row.difference(*names) is not None for row in rows)
    ]
    heads = ["DAY", "MODEL", "CALLS", *(head for head, *_ in stated), "LEDGER", "REPORT", "DIFFERENCE"]
    cells = [
        [
            row.day, row.model, number(len(row.calls)), *(_signed(row.difference(*names)) for _, *names in stated),
            money(_usd(row.ours_nusd)), money(_usd(row.billed.cost_nusd) if row.billed is not None else "0"),
            _dollars(row),
        ]
        for row in rows
    ]  # fmt: skip
    # the day, too: only a model's name may give way
    lines = table(heads, cells, right=[head for head in heads if head != "MODEL"]).split("\n")
    out = [lines[0]]
    for row, line in zip(rows, lines[1:], strict=True):
        out += [line, *(f"            {harmless(text)}" for text in explain(row))]
    return "\n".join(out)


def item_of(row: Row) -> dict[str, Any]:
    """A row as data, amounts exact."""
    billed = row.billed
    return {
        "day": row.day, "model": row.model, "calls": len(row.calls),
        "ledger": {
            **{theirs: row.tokens(ours) for theirs, ours in TOKENS}, "cost_usd": _usd(row.ours_nusd),
            "cost_by_source": {source: _usd(nusd) for source, nusd in sorted(row.by_source.items())},
        },
        "report": None if billed is None else {
            **{theirs: getattr(billed, theirs) for theirs, _ in TOKENS}, "requests": billed.requests,
            "cost_usd": _usd(billed.cost_nusd),
        },
        "difference_usd": _usd(row.difference_nusd), "tolerance_usd": _usd(row.tolerance_nusd),
        "agrees": row.agrees, "explained": explain(row),
    }  # fmt: skip


def _usd(nusd: int | None) -> str | None:
    from gateway.core.refusal import usd

    return None if nusd is None else usd(nusd)


def _signed(value: int | None) -> str:
    return "-" if value is None else "=" if value == 0 else f"{value:+,}"


def _dollars(row: Row) -> str:
    nusd = row.difference_nusd
    if nusd is None:
        return "-"
    if abs(nusd) <= row.tolerance_nusd:
        return "="
    return ("+" if nusd > 0 else "") + money(_usd(nusd))
