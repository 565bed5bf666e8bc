"""`meterbox ledger`: the file audited, backed up, and corrected by rows that say who and why.

Invariant: an audit and a backup change nothing; a correction is one row, once per id, and never takes more than was
charged. What never enters: repair of what an audit finds.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.books import call_of, holds_of, ledger_of, reading_of, who, writing_of
from gateway.cli.options import VerbFailed, settings_of, show_json, with_config, with_json
from gateway.cli.words import count, harmless, money

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.core.ledger.book import Hold
    from gateway.core.ledger.reading import Query
    from gateway.core.types import Exchange

_SHOWN = 50  # findings that are printed; --json has all
_SWEPT_S = 10.0  # a gateway that lives has charged by then what outlived its deadline
_COUNTED = ("account", "reservation", "ledger", "journal", "run")


@click.group("ledger")
def command() -> None:
    """Audit, back up or correct the ledger's file; gateways may run meanwhile."""


# --------------------------------------------------------------------------- audit


@command.command("audit")
@with_config
@with_json
@click.pass_context
def audit(ctx: click.Context, config: Path | None, as_json: bool) -> None:
    """Recompute every balance from its rows. Exit status 1 if an invariant fails, with the account and the figures."""
    from gateway.edge.clock import SystemClock
    from gateway.stores.sqlite.inspect import audit_file

    settings, clock = settings_of(config), SystemClock()
    begun = clock.mono()
    with reading_of(settings) as query:
        sizes = {name: query(f"SELECT count(*) FROM {name}", ())[0][0] for name in _COUNTED}  # noqa: S608  constants
        alive = query("SELECT count(*) FROM instance WHERE lease_until >= ?", (clock.now(),))[0][0]
        found = audit_file(ledger_of(settings), clock.now() - _SWEPT_S if alive else None)
        left = query("SELECT count(*) FROM reservation WHERE state = 'held'", ())[0][0]
    took = clock.mono() - begun
    facts: dict[str, Any] = {
        "ledger": str(ledger_of(settings)), "sound": not found, "findings": found, "accounts": sizes["account"],
        "reservations": sizes["reservation"], "rows": sizes["ledger"], "entries": sizes["journal"],
        "runs": sizes["run"], "held": left, "gateways": alive, "seconds": round(took, 3),
    }  # fmt: skip
    if as_json:
        show_json(facts)
    else:
        click.echo("\n".join(_told(facts)))
    if found:
        ctx.exit(1)


def _told(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{facts['ledger']}: {count(facts['accounts'], 'account')}, {count(facts['reservations'], 'reservation')}, "
        f"{count(facts['rows'], 'row')}, {count(facts['entries'], 'journal entry', 'journal entries')}, "
        f"{count(facts['runs'], 'run')}; looked through in {facts['seconds']:.2f} s"
    ]
    if facts["held"]:
        alive = "under way, or of a gateway that died a moment ago"
        whose = alive if facts["gateways"] else "left behind by a gateway that is gone; the next start charges them"
        lines.append(f"{count(facts['held'], 'reservation is', 'reservations are')} held: {whose}")
    if facts["sound"]:
        lines.append("sound: every balance is the sum of its rows, and every invariant (I1 to I8) holds")
        return lines
    lines += [harmless(finding) for finding in facts["findings"][:_SHOWN]]
    more = len(facts["findings"]) - _SHOWN
    if more > 0:
        lines.append(f"and {more} more: --json has all")
    lines.append(
        f"NOT SOUND: {count(len(facts['findings']), 'finding')}. Nothing was changed. Back the file up "
        "(`meterbox ledger backup FILE`) and compare with the last good backup before you go on"
    )
    return lines


# --------------------------------------------------------------------------- backup


@command.command("backup")
@with_config
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def backup(config: Path | None, target: Path) -> None:
    """Copy the ledger as it is at one instant into FILE, which must not be there yet."""
    from gateway.stores.sqlite.backup import back_up

    ledger = ledger_of(settings_of(config))
    back_up(ledger, target)
    click.echo(
        f"{target}: {target.stat().st_size:,} bytes. To restore it: stop all gateways, put it in place of {ledger}, "
        "and take away the files beside that end in -wal and -shm, and the folder projections: it is made anew"
    )


# --------------------------------------------------------------------------- correct


@command.command("correct")
@with_config
@with_json
@click.argument("call_id")
@click.option("--usd", metavar="AMOUNT", help="Dollars that the call cost more, or with a minus less: --usd -0.02.")
@click.option("--void", is_flag=True, help="A call of unknown outcome (presumed) was proven unbilled: charge nothing.")
@click.option("--reason", required=True, help="Why; stands in the ledger and in the journal.")
@click.option("--id", "correction_id", help="Your own id of this correction; the same id twice books once.")
@click.option("--actor", help="Who says so (default: the name of this user).")
def correct(config: Path | None, as_json: bool, call_id: str, **asked: Any) -> None:
    """Book what is better known of one call's cost, as a row of its own."""
    if (asked["usd"] is None) == (not asked["void"]):
        raise click.UsageError("say either --usd AMOUNT or --void")
    if asked["usd"] is not None and not asked["correction_id"]:
        raise click.UsageError(
            "--usd needs --id: a repeat of the same id books nothing, so no correction is booked twice"
        )
    delta = 0 if asked["void"] else signed_nusd(asked["usd"])
    said = asyncio.run(_correct(settings_of(config), call_id, delta, asked))
    if as_json:
        return show_json(said)
    what = f"now {money(said['charged_usd'])}, before {money(said['before_usd'])}"
    done = "" if said["booked"] else "nothing was booked: this correction, or this end, stands already; "
    click.echo(f"{harmless(call_id, 80)} of run {harmless(said['run'], 140)}: {done}{what}")


def signed_nusd(text: str) -> int:
    """An amount that may be negative, exact. Raises UsageError."""
    from gateway.config_text import exact_nusd

    try:
        return exact_nusd(text.replace("$", "", 1))
    except ValueError as error:
        raise click.UsageError(f"{harmless(text, 40)}: {error}") from error


async def _correct(settings: Settings, call_id: str, delta: int, asked: dict[str, Any]) -> dict[str, Any]:
    with reading_of(settings) as query:
        hold, call = charged_hold(query, call_id)
    if asked["void"] and hold.state == "settled":
        raise VerbFailed(
            f"the outcome of call {harmless(call_id, 80)} is known: what it cost less is booked with --usd"
        )
    before = hold.charged.get("nusd", 0)
    actor = asked["actor"] or who()
    async with writing_of(settings) as store:
        if asked["void"]:
            call.cost_source, call.cost_nusd = "refused", 0
            call.reason = f"not billed: {asked['reason']} ({actor})"
            settled = await store.settle(hold.id, {"calls": 1}, call)
        else:
            if (
                hold.state == "presumed"
            ):  # an operator's word ends the doubt; the correction is laid on what was charged
                call.cost_source, call.cost_nusd = "estimate", before
                await store.settle(hold.id, None, call)
            settled = await store.correct(hold.id, delta, asked["reason"], actor, asked["correction_id"])
    after = settled.charged if settled.charged is not None else before
    from gateway.core.refusal import usd

    return {
        "call_id": call_id, "run": hold.run, "before_usd": usd(before), "charged_usd": usd(after),
        "delta_usd": usd(after - before), "booked": after != before,
    }  # fmt: skip


def charged_hold(query: Query, call_id: str) -> tuple[Hold, Exchange]:
    """The latest attempt of a call, and the call. Raises VerbFailed where nothing can be corrected."""
    name = harmless(call_id, 80)
    holds = holds_of(query, call_id)
    if holds and holds[-1].state == "held":
        raise VerbFailed(f"call {name} is still under way: correct it once it has ended")
    call = call_of(query, holds[-1]) if holds else None
    if call is None:
        raise VerbFailed(
            f"the ledger has no reservation of a call {name}: `meterbox runs show R --json` lists the ids of a run's "
            "calls; reservations are kept for 40 days"
        )
    if "nusd" not in holds[-1].charged:
        raise VerbFailed(f"call {name} was charged in no account of dollars: there is nothing to correct")
    return holds[-1], call
