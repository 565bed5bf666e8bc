"""`meterbox runs`: the list of runs, and one run told: what happened, what it cost, where it went, why it stopped.

Invariant: figures are the control plane's own, exact; texts of clients and models are made harmless. What never
enters: changing anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from gateway.cli.control import Control, segment
from gateway.cli.options import settings_of, show_json, with_config, with_json
from gateway.cli.words import harmless, moment, money, number, seconds, table

_MOST_CALLS = 10_000
_TOP = 5


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
    control = Control(settings_of(config or above[0]))
    path = f"/api/runs/{segment(run_id)}"
    run = control.get(path, key=key)
    calls = control.items(f"{path}/calls", _MOST_CALLS, key=key)
    if as_json or above[1]:
        show_json({"run": run, "by_model": by_model(calls), "calls": calls})
    else:
        click.echo("\n\n".join(part for part in _told(run, calls) if part))


def by_model(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls, tokens and exact dollars of each model, the dearest first."""
    found: dict[str, dict[str, Any]] = {}
    for call in calls:
        if call["cost_source"] == "refused":
            continue
        model = call["response_model"] or call["request_model"]
        row = found.setdefault(model, {"model": model, "calls": 0, "input_tokens": 0, "output_tokens": 0, "nusd": 0})
        row["calls"] += 1
        row["input_tokens"] += call["usage"].get("input_tokens") or 0
        row["output_tokens"] += call["usage"].get("output_tokens") or 0
        row["nusd"] += int(Decimal(call["cost_usd"] or "0").scaleb(9))
    rows = sorted(found.values(), key=lambda row: -row["nusd"])
    return [{**row, "cost_usd": f"{Decimal(row.pop('nusd')).scaleb(-9):f}"} for row in rows]


def _told(run: dict[str, Any], calls: Sequence[dict[str, Any]]) -> list[str]:
    return [_head(run, calls), _cost(run, calls), _models(calls), _dearest(calls), _now(run, calls)]


def _head(run: dict[str, Any], calls: Sequence[dict[str, Any]]) -> str:
    refused = sum(1 for call in calls if call["cost_source"] == "refused" and call["status"] is None)
    names = [f"{word} {harmless(run[word], 60)}" for word in ("agent", "user", "parent") if run.get(word)]
    lasted = (_instant(run["ended_at"] or run["last_at"]) - _instant(run["started_at"])).total_seconds()
    who = f" ({', '.join(names)})" if names else ""
    return (
        f"Run {harmless(run['run_id'], 140)}{who}, known by: {harmless(run['source'], 30)}\n"
        f"What happened   {number(run['calls'])} calls and {number(run['tool_calls'])} tool calls in {seconds(lasted)} "
        f"from {moment(run['started_at'])}; {number(refused)} refused, {number(run['errors'])} errors\n"
        f"Why it stopped  {_why(run, refused)}"
    )


def _why(run: dict[str, Any], refused: int) -> str:
    outcome, state = run["outcome"], run["state"]
    reason = f": {harmless(run['reason'])}" if run["reason"] else ""
    words = {
        "completed": "it ended by itself, its work done",
        "gave_up": "it gave up",
        "failed": "its last call failed",
        "stopped_by_limit": "its budget was used up",
        "killed": "somebody killed it",
        "abandoned": "no call came any more",
    }
    if outcome in words:
        return words[outcome] + reason
    if state == "killed":
        return words["killed"] + reason
    if state == "paused":
        return "it is paused" + reason
    return "it has not" + (f"; {refused} calls were refused" if refused else "") + reason


def _cost(run: dict[str, Any], calls: Sequence[dict[str, Any]]) -> str:
    limit = run["limits"].get("usd")
    of = f" of {money(limit)}" if limit is not None else ", without a limit"
    more = [f"{money(run['held_usd'])} held by calls under way"] if Decimal(run["held_usd"]) else []
    if Decimal(run["overrun_usd"]):
        more.append(f"{money(run['overrun_usd'])} over the limit")
    if Decimal(run["own_spent_usd"]) != Decimal(run["spent_usd"]):
        more.append(f"{money(run['own_spent_usd'])} of it by its own calls, the rest by its children")
    bounds = sum(1 for call in calls if call["cost_source"] in ("presumed", "estimate"))
    if bounds:
        more.append(f"{bounds} calls ended unclear and are charged at their upper bound")
    unknown = sum(1 for call in calls if call["cost_usd"] is None)
    if unknown:
        more.append(f"{unknown} calls have no known cost")
    return "What it cost    " + "; ".join([f"{money(run['spent_usd'])}{of}", *more])


def _models(calls: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            row["model"],
            number(row["calls"]),
            number(row["input_tokens"]),
            number(row["output_tokens"]),
            money(row["cost_usd"]),
        ]
        for row in by_model(calls)
    ]
    heads = ["WHERE IT WENT", "CALLS", "INPUT", "OUTPUT", "COST"]
    return table(heads, rows, right=heads[1:]) if rows else ""


def _dearest(calls: Sequence[dict[str, Any]]) -> str:
    paid = sorted((call for call in calls if call["cost_usd"]), key=lambda call: -Decimal(call["cost_usd"]))[:_TOP]
    rows = [
        [
            f"step {call['step']}",
            call["response_model"] or call["request_model"],
            number(call["usage"].get("input_tokens")),
            number(call["usage"].get("output_tokens")),
            money(call["cost_usd"]),
            call["outcome"],
            ", ".join(tool["name"] for tool in call["tool_calls"]) or "-",
        ]
        for call in paid
        if Decimal(call["cost_usd"])
    ]
    heads = ["DEAREST STEPS", "MODEL", "INPUT", "OUTPUT", "COST", "OUTCOME", "TOOLS"]
    return table(heads, rows, right=("INPUT", "OUTPUT", "COST")) if rows else ""


def _now(run: dict[str, Any], calls: Sequence[dict[str, Any]]) -> str:
    name = harmless(run["run_id"], 140)
    state = run["state"]
    if state == "killed":
        said = [f"meterbox resume {name}   lets it go on"]
    elif run["outcome"] == "stopped_by_limit" or any(call["reason"] == "insufficient_quota" for call in calls[-1:]):
        said = [f"meterbox budget {name} --usd AMOUNT   raises its limit, as far as the configuration allows"]
    elif state in ("active", "waiting"):
        said = [f"meterbox kill {name}   stops it", f"meterbox budget {name} --usd AMOUNT   lowers its limit"]
    elif state == "paused":
        said = [f"meterbox resume {name}   lets it go on"]
    else:
        said = ["nothing: it is over"]
    return "What to do now  " + "\n                ".join(said)


def _instant(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
