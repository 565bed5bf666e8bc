"""`meterbox prices [MODEL]`: the rate cards that calls are metered by, overrides included.

Invariant: shown is what the gateway itself would use. What never enters: the network, a price of its own.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.options import VerbFailed, settings_of, show_json, with_config, with_json
from gateway.cli.words import harmless, number, table

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.core.price import RateCard

_CLASSES = ("input", "output", "cache_read", "cache_write", "cache_write_1h")


@click.command("prices")
@with_config
@with_json
@click.argument("model", required=False)
@click.option("--provider", "section", help="Only this section of the configuration.")
def command(config: Path | None, as_json: bool, model: str | None, section: str | None) -> None:
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
