"""`meterbox prices [MODEL]`: the rate cards that calls are metered by; `prices diff`: a provider's report beside them.

Invariant: shown is what the gateway itself would use; a comparison changes nothing unless it is told to book. What
never enters: the network, a price of its own.
"""

from __future__ import annotations

import asyncio
import csv
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.booking import book, plan
from gateway.cli.books import reading_of, who, writing_of
from gateway.cli.diff import Row, calls_of, compare, days_of, drawn, item_of
from gateway.cli.options import VerbFailed, settings_of, show_json, with_config, with_json
from gateway.cli.report import MOST_BYTES, Report, UnknownReport, read_report
from gateway.cli.words import count, harmless, money, number, table
from gateway.core.refusal import usd

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.core.price import RateCard

_CLASSES = ("input", "output", "cache_read", "cache_write", "cache_write_1h")


class Prices(click.Group):
    """`prices [MODEL]` shows cards; the word `diff` in front of a file compares."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the hidden word in where it was left out; options may stand in front."""
        at = 0
        while at < len(args) and args[at].startswith("-"):
            at += 2 if args[at] in ("--config", "--provider") else 1
        word = args[at] if at < len(args) and args[at] in ("list", "diff") else None
        rest = args if word is None else [*args[:at], *args[at + 1 :]]
        return super().parse_args(ctx, [word or "list", *rest])

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """What is told of; `list` is what happens without a word."""
        return ["diff"]


@click.group("prices", cls=Prices)
def command() -> None:
    """Show what calls are charged, or compare what was charged with a provider's report."""


@command.command("list", epilog="`meterbox prices diff REPORT.csv` compares what was charged with a provider's report.")
@with_config
@with_json
@click.argument("model", required=False)
@click.option("--provider", "section", help="Only this section of the configuration.")
def show(config: Path | None, as_json: bool, model: str | None, section: str | None) -> None:
    """Show dollars per million tokens: of MODEL, or of every model that the configured providers have in the list."""
    found = cards(settings_of(config), model, section)
    if not found:
        name = harmless(model or section or "", 80)
        raise VerbFailed(
            f"no price is known for {name}: under a budget its calls are refused; add one "
            'under [[prices.overrides]], or set [prices] unknown = "allow"'
        )
    items = [_item(name, card) for name, card in found]
    if as_json:
        show_json({"items": items})
    else:
        click.echo(_table(items))


# --------------------------------------------------------------------------- diff


@command.command("diff")
@with_config
@with_json
@click.argument("report", metavar="REPORT.csv", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--provider", "section", help="The section whose calls are billed (default: those of the report's preset)."
)
@click.option(
    "--book", "booked", is_flag=True, help="Book the difference as corrections of that day's and model's calls."
)
@click.option("--actor", help="With --book: who says so (default: the name of this user).")
@click.pass_context
def diff(ctx: click.Context, /, config: Path | None, as_json: bool, report: Path, **asked: Any) -> None:
    """Compare a provider's usage or cost export with the ledger, by UTC day and model.

    Exit status 1 where they differ beyond rounding, or where something could not be booked.
    """
    settings = settings_of(config)
    read = _read(report)
    sections = _sections(settings, read.provider, asked["section"])
    rows = _rows(settings, read, sections)
    said: dict[str, Any] = {}
    if asked["booked"]:
        said = _book(settings, rows, asked["section"] or read.provider, asked["actor"])
        rows = _rows(settings, read, sections)
    facts = _facts(read, sections, rows, said)
    if as_json:
        show_json({**facts, "items": [item_of(row) for row in rows]})
    else:
        click.echo(drawn(rows))
        click.echo("\n".join(["", *_summary(facts)]))
    if not facts["agrees"]:
        ctx.exit(1)


def _read(file: Path) -> Report:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise VerbFailed(f"{file} is larger than {MOST_BYTES >> 20} MB: export fewer days at a time")
        return read_report(file.read_text("utf-8-sig"))
    except (UnknownReport, UnicodeDecodeError, csv.Error) as error:
        raise VerbFailed(f"{file}: {harmless(error, 1_000)}") from error


def _sections(settings: Settings, provider: str, section: str | None) -> list[str]:
    known = settings.providers()
    if section is not None and section not in known:
        raise VerbFailed(f"no provider section is called {harmless(section, 80)}: there are {', '.join(known)}")
    found = [section] if section is not None else [name for name, one in known.items() if one.preset == provider]
    if not found:
        raise VerbFailed(
            f"this is a report of {provider}, and no section has that preset: say whose calls it bills with "
            f"--provider, one of {', '.join(known)}"
        )
    return found


def _rows(settings: Settings, report: Report, sections: list[str]) -> list[Row]:
    with reading_of(settings) as query:
        return compare(report, calls_of(query, sections, days_of(report)))


def _book(settings: Settings, rows: list[Row], provider: str, actor: str | None) -> dict[str, Any]:
    if all(row.difference_nusd is None for row in rows):
        raise VerbFailed("this report states no cost, so there is nothing to book: export the costs")
    with reading_of(settings) as query:
        plans = [plan(query, row, provider) for row in rows]

    async def carry_out() -> int:
        async with writing_of(settings) as store:
            return await book(store, plans, f"as billed by {provider}", actor or who())

    booked = sum(part.nusd for made in plans for part in made.parts)
    many = asyncio.run(carry_out()) if any(made.parts for made in plans) else 0
    left = [
        {"day": made.row.day, "model": made.row.model, "usd": usd(made.left_nusd)} for made in plans if made.left_nusd
    ]
    return {"corrections": many, "booked_usd": usd(booked), "not_booked": left}


def _facts(report: Report, sections: list[str], rows: list[Row], said: dict[str, Any]) -> dict[str, Any]:
    ours = sum(row.ours_nusd for row in rows)
    billed = sum(line.cost_nusd or 0 for line in report.lines.values()) if report.states_cost else None
    off = [row for row in rows if not row.agrees]
    # tokens can't be booked: once the money agrees, a booked report agrees
    open_rows = [row for row in off if abs(row.difference_nusd or 0) > row.tolerance_nusd] if said else off
    return {
        "provider": report.provider, "sections": sections, "days": list(days_of(report)),
        "ledger_usd": usd(ours), "report_usd": None if billed is None else usd(billed),
        "tolerance_usd": usd(max((row.tolerance_nusd for row in rows), default=0)),
        "agrees": not open_rows and not said.get("not_booked"), "differences": len(off), **said,
    }  # fmt: skip


def _summary(facts: dict[str, Any]) -> list[str]:
    first, last = facts["days"]
    billed = "no cost stated" if facts["report_usd"] is None else f"{money(facts['report_usd'])} in the report"
    lines = [
        f"{first} to {last} (UTC), {', '.join(facts['sections'])}: {money(facts['ledger_usd'])} in the ledger, {billed}"
    ]
    if "corrections" in facts:
        lines.append(f"booked: {count(facts['corrections'], 'correction')}, {money(facts['booked_usd'])} in all")
        lines += [
            f"NOT booked: {money(one['usd'])} of {harmless(one['model'], 60)} on {one['day']}: no call can take it"
            for one in facts["not_booked"]
        ]
    state = "they agree"
    if facts["differences"]:
        state = f"{count(facts['differences'], 'line above differs', 'lines above differ')}"
        if facts["agrees"]:
            state = f"the money agrees; tokens, which can't be booked, differ in {count(facts['differences'], 'line')}"
    lines.append(
        f"{state}; rounding of at most {money(facts['tolerance_usd'])} a line (half of the report's last digit, a "
        "nano-dollar a call) is no difference"
    )
    if facts["differences"] and "corrections" not in facts and facts["report_usd"] is not None:
        lines.append("`--book` corrects the calls of those days and models, so that the ledger says what was billed")
    return lines


# --------------------------------------------------------------------------- cards


def cards(settings: Settings, model: str | None, section: str | None) -> list[tuple[str, RateCard]]:
    """Section and card: of one model by the gateway's own look-up, or all that are listed."""
    from gateway.edge.clock import SystemClock
    from gateway.edge.pricelist import PriceList

    providers = settings.providers()
    if section is not None and section not in providers:
        raise VerbFailed(f"no provider section is called {harmless(section, 80)}: there are {', '.join(providers)}")
    listing, now = PriceList(settings.price_overrides()), SystemClock().now()
    found: list[tuple[str, RateCard]] = []
    for name, provider in providers.items():
        if section not in (None, name):
            continue
        if model is None:
            found += [(name, card) for card in listing.listed(provider, now)]
        elif (card := listing.card(provider, model, now)) is not None:
            found.append((name, card))
    return found


def _item(section: str, card: RateCard) -> dict[str, Any]:
    return {
        "provider": section,
        "model": card.model,
        "source": card.source,
        "usd_per_million": {
            name: f"{Decimal(getattr(card.rates, name)).scaleb(-9).normalize():f}" for name in _CLASSES
        },
        "long_context_from": [start for start, _ in card.rates.steps],
        "tiers": sorted(card.tiers),
        "context_window": card.context_window,
        "max_output": card.max_output,
    }


def _table(items: list[dict[str, Any]]) -> str:
    heads = ["PROVIDER", "MODEL", "INPUT", "OUTPUT", "CACHED", "WRITE", "WRITE 1H", "WINDOW", "MOST OUT", "FROM"]
    rows = [
        [
            item["provider"],
            item["model"] + ("+" if item["long_context_from"] else ""),
            *(item["usd_per_million"][name] for name in _CLASSES),
            number(item["context_window"]),
            number(item["max_output"]),
            "override" if item["source"] == "override" else "list",
        ]
        for item in items
    ]
    note = "\n\nDollars per million tokens; + costs more with a long context."
    return table(heads, rows, right=heads[2:9]) + note
