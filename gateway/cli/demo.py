"""`meterbox demo`: plays the story and prints its table, so that a stranger understands it in ten seconds.

Invariant: exit status 1 if a promise broke, and which. What never enters: a figure that wasn't counted in this run.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from gateway.cli.options import VerbFailed, say, show_json
from gateway.cli.words import number, table


@click.command("demo")
@click.option("--headless", is_flag=True, help="No progress lines, only the result.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as one JSON object.")
def command(headless: bool, as_json: bool) -> None:
    """A runaway meets its limit: a scripted provider with a bill of its own, real agents, a real gateway."""
    from gateway.demo.story import run

    try:
        told = run((lambda _: None) if headless else say)
    except (RuntimeError, TimeoutError) as error:
        raise VerbFailed(f"the demo could not be played: {error or 'it took too long'}") from error
    if as_json:
        show_json(told)
    else:
        click.echo(_table(told))
    for promise in told["promises"]:
        if not promise["kept"]:
            say(f"BROKEN: {promise['claim']}")
    if not told["ok"]:
        sys.exit(1)


def _table(told: dict[str, Any]) -> str:
    heads = ["", "METERBOX", "CALLS", "REFUSED", "PROVIDER BILLED", "LEDGER SAYS", "LIMIT"]
    rows = [
        [
            lane["title"],
            "yes" if lane["through_gateway"] else "no",
            number(lane["calls"]),
            number(lane["refused"]),
            _exact(lane["provider_bill_usd"]),
            _exact(lane["ledger_usd"]),
            "none" if lane["limit_usd"] is None else f"${lane['limit_usd'][:-7]}",
        ]
        for lane in told["lanes"]
    ]
    bills = {lane["name"]: lane["provider_bill_usd"][:-7] for lane in told["lanes"]}
    seen = f"\n{table(heads, rows, right=heads[2:])}"
    if not told["ok"]:
        return seen
    return (
        f"{seen}\n\nThe runaway that cost ${bills['direct']} on its own was stopped "
        f"at ${bills['demo-runaway']} by a limit of $1.00; the ledger never\nsays less than the provider billed, and a "
        "SIGKILL in the middle of 20 streams lost nothing: what was\nunclear is charged, and nothing stays held."
    )


def _exact(usd: str | None) -> str:
    return "-" if usd is None else f"${usd[:-3]}"
