"""`meterbox budget`: what is spent and held of every budget and when it is used up; or one run's limits, and changed.

Invariant: a change goes through `/api`, which raises no limit beyond what the configuration allows. What never enters:
rounding: an amount goes out as it was typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli.control import Control, segment
from gateway.cli.options import Verb, settings_of, show_json, with_config, with_json
from gateway.cli.words import ahead, amount, count, figure, harmless, table

UNITS: Final = ("usd", "calls", "tool_calls", "tokens", "seconds")
MOST_RUNS: Final = 10  # shown of the runs: the live ones that spent the most
_MOST_ITEMS: Final = 10_000
_MOST_COUNTED: Final = 1_000
_LIVE: Final = ("active", "waiting", "paused")


def with_limits(verb: Verb) -> Verb:
    """Adds an option for the limit of each unit."""
    for unit in reversed(UNITS[1:]):
        word = unit.replace("_", "-")
        says = f"New limit of run R in {word.replace('-', ' ')}."
        verb = click.option(f"--{word}", unit, type=click.IntRange(0), metavar="N", help=says)(verb)
    return click.option("--usd", metavar="AMOUNT", help="New limit of run R in dollars.")(verb)


@click.command("budget")
@with_config
@with_json
@click.argument("run_id", metavar="[R]", required=False)
@with_limits
@click.option("--key", help="Name of the virtual key, where two keys have a run of this id.")
def command(config: Path | None, as_json: bool, run_id: str | None, key: str | None, **asked: Any) -> None:
    """List all budgets, or show (or change) the limits of run R."""
    wanted = {unit: dollars(value) if unit == "usd" else value for unit, value in asked.items() if value is not None}
    if run_id is None:
        if wanted:
            raise click.UsageError("a limit needs a run: meterbox budget R --usd AMOUNT")
        return _list(Control(settings_of(config)), as_json)
    control, path = Control(settings_of(config)), f"/api/runs/{segment(run_id)}"
    run = control.post(f"{path}/limits", wanted, key=key) if wanted else control.get(path, key=key)
    found = control.items("/api/budgets", _MOST_ITEMS, run=run_id, key=key)
    if as_json:
        return show_json(
            {
                **{name: run[name] for name in ("run_id", "state", "reason", "spent_usd", "held_usd", "overrun_usd")},
                "limits": run["limits"],
                "budgets": found,
            }
        )
    for line in _of_run(run, found):
        click.echo(line)


def dollars(text: str) -> str:
    """An amount as the ledger takes it. Raises UsageError."""
    from decimal import Decimal

    from gateway.config_text import exact_nusd

    try:
        nusd = exact_nusd(text.removeprefix("$"))
    except ValueError as error:
        raise click.UsageError(f"{harmless(text, 40)}: {error}") from error
    if nusd < 0:
        raise click.UsageError(f"{harmless(text, 40)}: a limit is not negative")
    return f"{Decimal(nusd).scaleb(-9):f}"


# --------------------------------------------------------------------------- one run


def _of_run(run: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> list[str]:
    reason = f": {harmless(run['reason'])}" if run["reason"] else ""
    lines = [f"{harmless(run['run_id'], 140)} is {run['state']}{reason}"]
    own = own_accounts(run)
    counted = {item["unit"]: item for item in found if item["account"].startswith(own)}
    for unit in UNITS:
        limit = run["limits"].get(unit)
        spent, held = _used(run, unit, counted.get(unit))
        if unit != "usd" and limit is None:
            continue
        of = f"limit {amount(unit, limit)}" if limit is not None else "no limit"
        lines.append(f"  {figure(unit, spent)} spent, {figure(unit, held)} held, {of}")
    return lines


def _used(run: Mapping[str, Any], unit: str, item: Mapping[str, Any] | None) -> tuple[Any, Any]:
    if unit == "usd":
        return run["spent_usd"], run["held_usd"]
    if item is not None:
        return item["spent"], item["held"]
    if unit == "seconds":
        from gateway.edge.clock import SystemClock

        return lasted_s(run, SystemClock().now()), 0
    return run["input_tokens"] + run["output_tokens"] if unit == "tokens" else run[unit], 0


def lasted_s(run: Mapping[str, Any], now: float) -> int:
    """Whole seconds since a run began, until its end if it has ended."""
    from gateway.cli.words import instant

    end = instant(run["ended_at"]) if run["ended_at"] else now
    return max(0, int(end - instant(run["started_at"])))


def own_accounts(run: Mapping[str, Any]) -> str:
    """What the names of a run's own accounts begin with."""
    return f"run/{run['key'] + '~' if run['key'] else ''}{run['run_id']}/"


# --------------------------------------------------------------------------- all


def _list(control: Control, as_json: bool) -> None:
    if as_json:
        return show_json({"items": control.items("/api/budgets", _MOST_ITEMS)})
    shared = _shared(control)
    runs, more = _live(control)
    mine = [item for run in runs for item in _own(control, run)]
    if not shared and not mine:
        return click.echo("No budget has an account yet: they open with the first call of a run.", err=True)
    from gateway.edge.clock import SystemClock

    click.echo(_table([*shared, *mine], SystemClock().now()))
    if more:
        click.echo(f"\nand {count(more, 'more run')}: `meterbox runs` lists them, `meterbox budget R` shows one")


def _shared(control: Control) -> list[dict[str, Any]]:
    """Every account that more than one run spends from; the runs come after them."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < _MOST_ITEMS:
        page = control.get("/api/budgets", limit=_MOST_COUNTED, cursor=cursor)
        found += [item for item in page["items"] if item["scope"] != "run"]
        cursor = page["next_cursor"]
        if cursor is None or any(item["scope"] == "run" for item in page["items"]):
            break
    return found


def _live(control: Control) -> tuple[list[dict[str, Any]], int]:
    """The live runs that spent the most (none live: of all), and how many more there are."""
    found = [
        run for state in _LIVE for run in control.items("/api/runs", _MOST_COUNTED, state=state, sort="-spent_usd")
    ]
    if not found:
        found = control.items("/api/runs", _MOST_COUNTED, sort="-spent_usd")
    spent: Callable[[dict[str, Any]], float] = lambda run: -float(run["spent_usd"])  # noqa: E731  a key to sort by
    return sorted(found, key=spent)[:MOST_RUNS], max(0, len(found) - MOST_RUNS)


def _own(control: Control, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = control.items("/api/budgets", _MOST_ITEMS, run=run["run_id"], key=run["key"])
    return [item for item in found if item["account"].startswith(own_accounts(run))]


def _table(found: Sequence[dict[str, Any]], now: float) -> str:
    rows = [
        [
            ("shadow " if item["mode"] == "shadow" else "") + item["name"],
            _whom(item),
            amount(item["unit"], item["limit"]),
            *(figure(item["unit"], item[name]) for name in ("spent", "held")),
            ahead(item["exhausted_at"], now).removeprefix("in ").replace("now", "used up"),
            ahead(item["resets_at"], now).removeprefix("in "),
        ]
        for item in found
    ]
    heads = ["BUDGET", "OF", "LIMIT", "SPENT", "HELD", "LASTS", "ANEW IN"]
    return table(heads, rows, right=heads[2:])


def _whom(item: Mapping[str, Any]) -> str:
    """The account as people read it: the unit stands with the amounts."""
    account = str(item["account"])
    return f"run {account[4:].rpartition('/')[0]}" if account.startswith("run/") else account
