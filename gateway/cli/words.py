"""How the command line spells things: amounts, times, tables; and texts of others made harmless.

Invariant: nothing that a model or a client wrote reaches the terminal with a control character in it; a table fits
into 100 columns. What never enters: colours, a library for tables, the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

WIDTH = 100
_GAP = "  "
_LEAST = 8  # no column is squeezed below that


def harmless(text: object, most: int = 400) -> str:
    """A text that can't move the cursor, change colours or reorder a line (security.md: sanitise ANSI escapes)."""
    spelled = "".join(c if c.isprintable() else _escape(c) for c in str(text)[: most + 1])
    return spelled if len(spelled) <= most else spelled[: most - 1] + "…"


def _escape(character: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\x{ord(character):02x}")


def money(usd: Any) -> str:
    """An exact decimal text as dollars: at least cents, at most the six digits that small calls need."""
    if usd is None:
        return "-"
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        return harmless(usd, 30)
    if amount == amount.quantize(Decimal("0.01")):
        return f"${amount:,.2f}"
    return f"${amount:,.6f}" if amount.copy_abs() >= Decimal("0.000001") else f"${amount:,.9f}"


def number(value: Any) -> str:
    """A count with thousands apart."""
    return f"{value:,}" if isinstance(value, int) else "-"


def seconds(value: float) -> str:
    """A duration in two words at most."""
    whole = int(value)
    if value < 60:
        return f"{value:.1f} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


_UNIT_WORDS: Final = {"calls": "calls", "tool_calls": "tool calls", "tokens": "tokens"}


def amount(unit: str, value: Any) -> str:
    """An amount of a budget's unit, readable alone: $1.00, 40 calls, 1,200 tokens, 3 min 20 s."""
    if value is None:
        return "no limit"
    if unit == "usd":
        return money(value)
    if not isinstance(value, int):
        return harmless(value, 30)
    if unit == "seconds":
        return f"{value} s" if value < 60 else seconds(value)
    word = _UNIT_WORDS.get(unit, harmless(unit, 20))
    return f"{number(value)} {word[:-1] if value == 1 and word.endswith('s') else word}"


def figure(unit: str, value: Any) -> str:
    """An amount beside one that names the unit: $1.00, 40, 3 min 20 s."""
    return number(value) if unit in _UNIT_WORDS else amount(unit, value)


def count(many: int, one: str, more: str = "") -> str:
    """`1 call`, `2 calls`; the plural is said where it isn't the word and an s."""
    return f"{number(many)} {one if many == 1 else more or one + 's'}"


def instant(stamp: str) -> float:
    """Epoch seconds of an RFC 3339 instant."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def ahead(stamp: Any, now: float) -> str:
    """How long it is until an instant; `now` once it has come, a dash where there is none."""
    if not stamp:
        return "-"
    left = instant(stamp) - now
    return f"in {span(left)}" if left > 0 else "now"


def span(value: float) -> str:
    """A duration as people say it: days and hours where it is long."""
    if value < 172_800:
        return seconds(value)
    return f"{int(value) // 86_400} days {int(value) % 86_400 // 3_600} h"


def moment(stamp: Any) -> str:
    """An RFC 3339 instant without its fraction."""
    return "-" if not stamp else f"{harmless(stamp, 40)[:19].replace('T', ' ')}Z"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), width: int = WIDTH) -> str:
    """Columns under their heads; those named in `right` are numbers. Too wide: the widest text column gives way."""
    cells = [list(heads), *([harmless(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    texts = [i for i, head in enumerate(heads) if head not in right]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width and texts:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= max(_LEAST, len(heads[widest])):
            break
        widths[widest] -= 1
    lines = []
    for row in cells:
        fitted = [_fit(cell, widths[i], heads[i] in right) for i, cell in enumerate(row)]
        lines.append(_GAP.join(fitted).rstrip())
    return "\n".join(lines)


def _fit(cell: str, width: int, to_the_right: bool) -> str:
    if len(cell) > width:
        cell = cell[: width - 1] + "…"
    return cell.rjust(width) if to_the_right else cell.ljust(width)
