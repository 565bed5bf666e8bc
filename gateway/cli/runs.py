"""`meterbox runs`: the list of runs, and one run told (story.py has the page).

Invariant: figures are the control plane's own, exact; texts of clients and models are made harmless. What never
enters: changing anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.control import Control, segment
from gateway.cli.options import settings_of, show_json, with_config, with_json
from gateway.cli.story import Facts, by_model, tell
from gateway.cli.words import moment, money, number, table

if TYPE_CHECKING:
    from gateway.config import Settings

_MOST_CALLS = 10_000
_MOST_CHILDREN = 1_000


@click.group("runs", invoke_without_command=True)
@with_config
@with_json
@click.option("--state", type=click.Choice(["active", "waiting", "paused", "ended", "killed"]), help="Only these.")
@click.option("--agent", help="Only runs of this agent.")
@click.option("--user", help="Only runs of this user.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most this many.")
@click.pass_context
def command(ctx: click.Context, /, config: Path | None, as_json: bool, limit: int, **asked: str | None) -> None:
    """List runs, the latest first; `runs show R` tells one."""
    if ctx.invoked_subcommand is not None:
        ctx.obj = (config, as_json)
        return
    found = Control(settings_of(config)).items("/api/runs", limit, **asked)
    if as_json:
        show_json({"items": found})
    elif not found and any(asked.values()):
        click.echo("No such run. `meterbox runs` lists all.", err=True)
    elif not found:
        click.echo(
            "No runs yet. Point an agent at the gateway: `meterbox run -- CMD` does it for one command.", err=True
        )
    else:
        click.echo(_list(found))


def _list(found: Sequence[dict[str, Any]]) -> str:
    heads = ["RUN", "STATE", "CALLS", "TOKENS", "SPENT", "LIMIT", "AGENT", "LAST (UTC)"]
    rows = [
        [
            run["run_id"],
            run["outcome"] or run["state"],
            number(run["calls"]),
            number(run["input_tokens"] + run["output_tokens"]),
            money(run["spent_usd"]),
            money(run["limits"].get("usd")),
            run["agent"] or "-",
            moment(run["last_at"])[5:].removesuffix("Z"),  # the year gives way to a run id that can be copied whole
        ]
        for run in found
    ]
    return table(heads, rows, right=("CALLS", "TOKENS", "SPENT", "LIMIT"))


@command.command("show")
@with_config
@with_json
@click.argument("run_id", metavar="R")
@click.option("--key", help="Name of the virtual key, where two keys have a run of this id.")
@click.pass_context
def show(ctx: click.Context, config: Path | None, as_json: bool, run_id: str, key: str | None) -> None:
    """Tell one run: what happened, what it cost, where the money went, why it stopped, what to do now."""
    above: tuple[Path | None, bool] = ctx.obj or (None, False)
    settings = settings_of(config or above[0])
    facts = facts_of(Control(settings), run_id, key, most_of(settings))
    if not (as_json or above[1]):
        return click.echo(tell(facts))
    lists = {name: getattr(facts, name) for name in ("calls", "tools", "children", "held", "budgets")}
    show_json({"run": facts.run, "by_model": by_model(facts.calls), **lists})


def most_of(settings: Settings) -> dict[str, Any]:
    """How far the configuration at hand lets a run's limits rise, by unit."""
    from gateway.core.refusal import usd
    from gateway.edge.api_views import UNITS, ceilings

    tops = ceilings(settings.budget_rules())
    found = {word: tops[unit].most for word, unit in UNITS.items() if unit in tops}
    return {word: usd(most) if word == "usd" else most for word, most in found.items()}


def facts_of(control: Control, run_id: str, key: str | None, most: dict[str, Any]) -> Facts:
    """Everything that the page tells, asked of the control plane."""
    from gateway.edge.clock import SystemClock

    path = f"/api/runs/{segment(run_id)}"
    run = control.get(path, key=key)
    return Facts(
        run=run,
        calls=control.items(f"{path}/calls", _MOST_CALLS, key=key),
        tools=control.items(f"{path}/tools", _MOST_CALLS, key=key),
        children=control.items("/api/runs", _MOST_CHILDREN, parent=run_id, key=key, sort="-spent_usd"),
        held=control.items(f"{path}/held", _MOST_CHILDREN, key=key),
        budgets=control.items("/api/budgets", _MOST_CHILDREN, run=run_id, key=key),
        most=most,
        now=SystemClock().now(),
    )
