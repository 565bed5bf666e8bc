"""`meterbox budget`: what is spent and held of every budget; or the limit of one run, shown and changed.

Invariant: a change goes through `/api`, which raises no limit beyond what the configuration allows. What never enters:
rounding: an amount goes out as it was typed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gateway.cli.control import Control, segment
from gateway.cli.options import settings_of, show_json, with_config, with_json
from gateway.cli.words import harmless, money, table


@click.command("budget")
@with_config
@with_json
@click.argument("run_id", metavar="[R]", required=False)
@click.option("--usd", metavar="AMOUNT", help="New limit of run R in dollars.")
@click.option("--key", help="Name of the virtual key, where two keys have a run of this id.")
def command(config: Path | None, as_json: bool, run_id: str | None, usd: str | None, key: str | None) -> None:
    """List all budgets, or show (or with --usd change) the limit of run R."""
    if run_id is None:
        if usd is not None:
            raise click.UsageError("--usd needs a run: meterbox budget R --usd AMOUNT")
        return _list(Control(settings_of(config)), as_json)
    amount = None if usd is None else dollars(usd)
    control, path = Control(settings_of(config)), f"/api/runs/{segment(run_id)}"
    run = control.get(path, key=key) if amount is None else control.post(f"{path}/limits", {"usd": amount}, key=key)
    if as_json:
        return show_json(
            {name: run[name] for name in ("run_id", "state", "spent_usd", "held_usd", "overrun_usd", "limits")}
        )
    click.echo(
        f"{harmless(run['run_id'], 140)}: {money(run['spent_usd'])} spent and {money(run['held_usd'])} held "
        f"of {money(run['limits'].get('usd'))}"
    )


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


def _list(control: Control, as_json: bool) -> None:
    found = control.items("/api/budgets", 10_000)
    if as_json:
        show_json({"items": found})
    elif not found:
        click.echo("No budget has an account yet: they open with the first call of a run.", err=True)
    else:
        click.echo(_table(found))


def _table(found: Sequence[dict[str, Any]]) -> str:
    def spell(row: dict[str, Any], name: str) -> str:
        return money(row[name]) if row["unit"] == "usd" else str(row[name] if row[name] is not None else "-")

    amounts = ("limit", "spent", "held", "overrun")
    rows = [[row["name"], row["account"], row["per"], *(spell(row, name) for name in amounts)] for row in found]
    return table(
        ["BUDGET", "ACCOUNT", "PER", *(name.upper() for name in amounts)],
        rows,
        right=[name.upper() for name in amounts],
    )
