"""`[[budgets]]`: what each may say, which of them contradict each other, and the rules that they become.

Invariant: a budget that was accepted is enforced as it is written; what can't be is an error with its key and what to
do. Reads the zone database, once for each zone that is named. What never enters: where a text came from
(config_text.py), a price, a balance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from gateway.config_tables import Name, Table, Usd
from gateway.config_text import Path, nearest
from gateway.core.types import NUSD

if TYPE_CHECKING:
    from gateway.core.types import Unit
    from gateway.core.windows import Calendar
    from gateway.rules.budget import Budget

DEFAULT_RUN_NUSD = 10 * NUSD  # holds until the file names a budget of scope "run" (design.md section 5)
UNITS: dict[str, Unit] = {
    "usd": "nusd",
    "calls": "calls",
    "tool_calls": "tool_calls",
    "tokens": "tokens",
    "seconds": "seconds",
}
MOST_COUNT = 1 << 50  # what the ledger takes (core/ledger/book.py, AMOUNT_MOST)
MOST_RAISED_NUSD = 1_000_000 * NUSD  # what /limits takes (edge/api_models.py, MOST_USD)
MOST_THRESHOLDS = 20
MOST_LABEL = 256  # of an agent or user, as long as a header may say (core/identify.py)
_WARN_NUSD = 1_000 * NUSD
_KINDS = ("agent", "user", "key")
_SCOPES = ("run", "agent:*", "user:*", "key:*", "global")
_SPANS = ("hour", "day", "month")  # shortest first
# Names that zone files may have without being a zone: the machine's own setting, other tables, a placeholder.
_NO_ZONE = frozenset({"localtime", "posixrules", "Factory"})
_ALERTS = (("0.5", 500), ("0.8", 800), ("1.0", 1000))


def _one_of(*words: str, **later: str) -> Callable[[Any], str]:
    """One of these words; `later` has the words that a design knows and this version can't enforce, and why."""

    def read(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, str) and value in later:
            raise ValueError(f"a limit that can't be enforced must not start: {later[value]}")
        near = nearest(value, words) if isinstance(value, str) else ""
        raise ValueError(f"write one of {', '.join(words)}.{near}")

    return read


def _scope(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"write one of {', '.join(_SCOPES)}, or agent:NAME, user:NAME, key:NAME")
    if value in _SCOPES:
        return value
    kind, colon, name = value.partition(":")
    if kind in _KINDS and not name:
        raise ValueError(f"write {kind}:* for each {kind} on its own, or {kind}:NAME for one of them")
    if kind not in _KINDS or not colon:
        near = nearest(value, _SCOPES) or nearest(f"{kind}:*", _SCOPES)
        raise ValueError(f"write one of {', '.join(_SCOPES)}, or agent:NAME, user:NAME, key:NAME.{near}")
    if "*" in name:
        raise ValueError(f"`*` stands alone: {kind}:* for each {kind} on its own, or {kind}:NAME for one of them")
    if name != name.strip() or not name.isprintable() or len(name) > MOST_LABEL:
        raise ValueError(f"a name is at most {MOST_LABEL} printable characters, without blanks around it")
    return value


def _count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r" *[0-9]{1,20} *", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("write a whole number, e.g. 50")
    if value <= 0:
        raise ValueError("must be above 0; to stop everything use `meterbox kill --all`")
    if value > MOST_COUNT:
        raise ValueError(f"the greatest number is {MOST_COUNT:,}")
    return value


def _decimal(value: Any) -> Decimal:
    """A number or its text, as an exact decimal; a TOML number is one already (config_text.read_file)."""
    if isinstance(value, float):
        value = repr(value)
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("write a number, e.g. 0.5")
    try:
        read = Decimal(value)
    except InvalidOperation:
        raise ValueError("write a number, e.g. 0.5") from None
    if not read.is_finite():
        raise ValueError("NaN and infinity are no parts of a limit")
    return read


def _per_mille(value: Any, most: int) -> tuple[Decimal, int]:
    read = _decimal(value)
    if not 0 < read <= most:
        raise ValueError(f"must be above 0 and at most {most} (0.5 is half of the limit)")
    scaled = read * 1000
    if scaled != int(scaled):
        raise ValueError("at most three digits after the point")
    return read, int(scaled)


def _share(value: Any) -> int:
    return _per_mille(value, 1)[1]


def _alert_at(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, list | tuple) or len(value) > MOST_THRESHOLDS:
        raise ValueError(f"write a list of at most {MOST_THRESHOLDS} parts of the limit, e.g. [0.5, 0.8, 1.0]")
    read = sorted((_per_mille(one, 10) for one in value), key=lambda one: one[1])
    if len({mille for _, mille in read}) < len(read):
        raise ValueError("the same part stands there twice")
    return tuple((f"{part:f}", mille) for part, mille in read)


Count = Annotated[int, BeforeValidator(_count)]


class BudgetTable(Table):
    """`[[budgets]]`: limits of one scope in one kind of window. Checks that need two keys stand in `faults`."""

    name: Name
    scope: Annotated[str, BeforeValidator(_scope)]
    usd: Usd | None = None
    calls: Count | None = None
    tool_calls: Count | None = None
    tokens: Count | None = None
    seconds: Count | None = None
    per: Annotated[str, BeforeValidator(_one_of("run", *_SPANS))] | None = None
    zone: str = "UTC"
    mode: Annotated[str, BeforeValidator(_one_of("strict", "expected", "shadow"))] = "strict"
    on_exceed: Annotated[
        str,
        BeforeValidator(
            _one_of("stop", "last_call", "degrade", ask="this version can't ask a person; write stop or last_call")
        ),
    ] = "stop"
    degrade_to: str | None = Field(default=None, min_length=1, max_length=200)
    max_usd: Usd | None = None
    alert_at: Annotated[tuple[tuple[str, int], ...], BeforeValidator(_alert_at)] = _ALERTS
    share: Annotated[int, BeforeValidator(_share)] = 1000  # kept in per mille
    clamp: bool = True

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        zone_of(value)
        return value

    @property
    def enforced(self) -> bool:
        """Does it refuse anything?"""
        return self.mode != "shadow"

    @property
    def limits(self) -> dict[str, int]:
        """Its limits by the key that names them: usd in nano-dollars, the rest as numbers."""
        return {key: getattr(self, key) for key in UNITS if getattr(self, key) is not None}


def zone_of(name: str) -> tzinfo:
    """What knows this zone's offsets. Raises ValueError with the nearest name where there is no such zone."""
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, available_timezones

    if name not in _NO_ZONE and not name.startswith(("posix/", "right/")):
        try:
            return ZoneInfo(name)
        except (KeyError, OSError, ValueError):  # not there, a folder of zones, no zone file
            pass
    zones = sorted(available_timezones() - _NO_ZONE)
    city = name.strip().lower().replace(" ", "_")
    meant = next((zone for zone in zones if zone.rpartition("/")[2].lower() == city), name)
    raise ValueError(f"no such time zone: write UTC or an IANA name, e.g. Europe/Berlin.{nearest(meant, zones)}")


# --------------------------------------------------------------------------- what doesn't fit together


def faults(tables: Sequence[BudgetTable]) -> Iterator[tuple[Path, str]]:
    """Every contradiction, within a budget or between two, with the path of the key to change."""
    for index, table in enumerate(tables):
        for check in (_limit_faults, _window_faults, _exceed_faults):
            for key, why in check(table):
                yield ("budgets", index, key) if key else ("budgets", index), why
    yield from _twins(tables)
    yield from _rivals(tables)


def _limit_faults(table: BudgetTable) -> Iterator[tuple[str, str]]:
    if not table.limits:
        yield "", f"limits nothing: name at least one of {', '.join(UNITS)}"
    if table.max_usd is None:
        return
    if table.scope != "run":
        yield "max_usd", "only the limit of a run can be raised: take it out, and change usd where the limit is too low"
    elif table.usd is None:
        yield "max_usd", "is how far /limits may raise usd, which isn't named: write usd too"
    elif table.max_usd < table.usd:
        yield "max_usd", "max_usd is how far /limits may raise the budget: it can't be below usd"
    elif table.max_usd > MOST_RAISED_NUSD:
        yield "max_usd", f"/limits takes at most {MOST_RAISED_NUSD // NUSD:,} dollars: write that, or raise usd itself"


def _window_faults(table: BudgetTable) -> Iterator[tuple[str, str]]:
    windowed = table.per in _SPANS
    if table.scope == "run" and windowed:
        yield (
            "per",
            'a run has one budget for its whole life: take `per` out, or limit a period with scope = "agent:*", '
            '"user:*", "key:*" or "global"',
        )
    elif table.scope != "run" and not windowed:
        begun = "is missing: " if table.per is None else '"run" is for scope "run" only: '
        yield "per", f'{begun}write per = "hour", "day" or "month", the period that the limit is for'
    if "zone" in table.model_fields_set and table.scope == "run":
        yield "zone", "a run has no window that a zone could place: take it out"


def _exceed_faults(table: BudgetTable) -> Iterator[tuple[str, str]]:
    if table.on_exceed == "last_call" and set(table.limits) == {"seconds"}:
        yield "on_exceed", "time that is up leaves nothing for a last call: write stop, or name another unit too"
    if table.on_exceed != "degrade":
        if table.degrade_to is not None:
            yield "degrade_to", 'works with on_exceed = "degrade" only: write that too, or take this out'
    elif table.degrade_to is None:
        yield "degrade_to", 'is missing: on_exceed = "degrade" needs the model to ask instead'
    elif table.usd is None:
        yield "on_exceed", "a cheaper model saves dollars and nothing else: name usd too, or write stop or last_call"


def _twins(tables: Sequence[BudgetTable]) -> Iterator[tuple[Path, str]]:
    seen: dict[str, int] = {}
    for index, table in enumerate(tables):
        first = seen.setdefault(table.name, index)
        if first != index:
            yield (
                ("budgets", index, "name"),
                f"two are named {table.name} (the other is budgets[{first}]): each needs a name of its own",
            )


def _rivals(tables: Sequence[BudgetTable]) -> Iterator[tuple[Path, str]]:
    seen: dict[tuple[str, ...], BudgetTable] = {}
    for index, table in enumerate(tables):
        for key in table.limits if table.enforced else ():
            first = seen.setdefault((key, table.scope, table.per or "run", table.zone), table)
            if first is not table:
                yield (
                    ("budgets", index, key),
                    f"{table.name} and {first.name} both limit {key} of {table.scope} per {table.per or 'run'}: keep "
                    'one of them, or set mode = "shadow" on the other',
                )


# --------------------------------------------------------------------------- what is worth a second look


def doubts(tables: Sequence[BudgetTable], keys: Sequence[str]) -> Iterator[str]:
    """What is allowed but probably not meant, one sentence each. `keys`: names of the virtual keys."""
    for table in tables:
        if table.scope == "run" and (table.usd or 0) > _WARN_NUSD:
            yield f"budget {table.name}: ${(table.usd or 0) // NUSD:,} for a single run is a lot; is the unit dollars?"
        kind, _, name = table.scope.partition(":")
        if kind == "key" and (not keys or name not in ("*", *keys)):
            missing = "there are no [[keys]]" if not keys else f"no [[keys]] has this name.{nearest(name, keys)}"
            yield f"budget {table.name}: applies to nobody: {missing}"
        yield from _beyond(table, tables)
    runs = [table for table in tables if table.scope == "run"]
    if runs and not any(table.enforced and table.usd is not None for table in runs):
        yield (
            "budgets: runs have no dollar limit: the $10 for every run hold only until a budget of scope run is "
            "configured, and none of these limits usd"
        )


def _beyond(table: BudgetTable, tables: Sequence[BudgetTable]) -> Iterator[str]:
    for other in tables:
        if other is table or not _covers(other, table):
            continue
        for key, limit in table.limits.items():
            if limit > other.limits.get(key, limit):
                yield (
                    f"budget {table.name}: its {key} can never be reached: {other.name} ({other.scope} per "
                    f"{other.per}) applies too and is lower"
                )


def _covers(wide: BudgetTable, narrow: BudgetTable) -> bool:
    """Does all that `narrow` counts count for `wide` too, in a window that is at least as long?"""
    if not (wide.enforced and narrow.enforced) or "run" in (wide.scope, narrow.scope) or wide.zone != narrow.zone:
        return False
    kind, _, name = wide.scope.partition(":")
    same = wide.scope in (narrow.scope, "global") or (name == "*" and narrow.scope.startswith(f"{kind}:"))
    return same and _span(wide) >= _span(narrow)


def _span(table: BudgetTable) -> int:
    return _SPANS.index(table.per) if table.per in _SPANS else -1


# --------------------------------------------------------------------------- what they become


def default_holds(tables: Sequence[BudgetTable]) -> bool:
    """Does the built-in limit of every run hold? Until the file names a budget of scope run, whatever it limits."""
    return not any(table.scope == "run" for table in tables)


def cheaper_models(tables: Sequence[BudgetTable]) -> Iterator[tuple[Path, str]]:
    """The models that budgets degrade to, and where they are named."""
    for index, table in enumerate(tables):
        if table.degrade_to is not None:
            yield ("budgets", index, "degrade_to"), table.degrade_to


def rules_of(tables: Sequence[BudgetTable]) -> list[Budget]:
    """One Budget for each unit that a table names, in the file's order; the default of $10 a run where it holds."""
    from gateway.rules.budget import Budget

    found = [_rule(table, key) for table in tables for key in table.limits]
    if default_holds(tables):
        found.insert(0, Budget(name="default", limit=DEFAULT_RUN_NUSD, most=DEFAULT_RUN_NUSD, alert_at=_ALERTS))
    return found


def _rule(table: BudgetTable, key: str) -> Budget:
    from gateway.rules.budget import Budget

    limit = table.limits[key]
    most = table.max_usd if key == "usd" and table.max_usd is not None else limit
    named: dict[str, Any] = {"mode": table.mode, "on_exceed": table.on_exceed, "degrade_to": table.degrade_to}
    if (table.on_exceed, key) == ("last_call", "seconds") or (table.on_exceed == "degrade" and key != "usd"):
        named |= {
            "on_exceed": "stop",
            "degrade_to": None,
        }  # time that is up has no reserve; fewer dollars, as many calls
    return Budget(
        name=table.name,
        limit=limit,
        most=most,
        clamp=table.clamp,
        scope=table.scope,
        unit=UNITS[key],
        window=_calendar(table),
        alert_at=table.alert_at,
        part=table.share,
        **named,
    )


def _calendar(table: BudgetTable) -> Calendar | None:
    from gateway.core.windows import Calendar

    return None if table.per in (None, "run") else Calendar(table.per, table.zone, zone_of(table.zone))  # type: ignore[arg-type] # one of _SPANS
