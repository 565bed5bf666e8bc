"""`meterbox check`: reads the configuration and shows what would be in force, without starting or changing anything.

Invariant: no secret is shown, not even in part; nothing is created. What never enters: the network, the ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.addresses import check_addresses
from gateway.cli.control import bracketed
from gateway.cli.options import say, settings_of, show_json, with_config, with_json
from gateway.cli.words import amount, table

if TYPE_CHECKING:
    from gateway.config import Settings


@click.command("check")
@with_config
@with_json
def command(config: Path | None, as_json: bool) -> None:
    """Check the configuration and show what would be in force. Exit status 2 if it can't be used."""
    settings = settings_of(config)
    _check_prices(settings)
    check_addresses(settings)
    facts = in_force(settings)
    if as_json:
        show_json(facts)
    else:
        _show(facts)
    for line in settings.warnings():
        say(f"warning: {line}")


def in_force(settings: Settings) -> dict[str, Any]:
    """What `serve` would do, as data."""
    server = settings.server
    admin = settings.admin_listener() or (server.host, server.port)
    return {
        "file": str(settings.file) if settings.file else None,
        "data_plane": f"http://{bracketed(server.host)}:{server.port}",
        "control_plane": f"http://{bracketed(admin[0])}:{admin[1]}",
        "auth": "keys" if settings.keys_required else "none",
        "keys": [key.name for key in settings.keys],
        "unmetered": server.unmetered,
        "providers": _providers(settings),
        "budgets": _budgets(settings),
        "unknown_prices": settings.prices.unknown,
        "overrides": [override.model for override in settings.prices.overrides],
        "ledger": str(settings.ledger_path),
        "projections": _projections(settings),
        "warnings": settings.warnings(),
    }


def _check_prices(settings: Settings) -> None:
    """Reads the price list, which takes a while, only where a budget names a model. Raises ConfigError."""
    if not any(budget.degrade_to for budget in settings.budgets):
        return
    from gateway.edge.clock import SystemClock
    from gateway.edge.pricelist import PriceList

    settings.check_prices(PriceList(settings.price_overrides()), SystemClock().now())


def _projections(settings: Settings) -> list[dict[str, Any]]:
    """Who is told what, and where; no header, no secret, of a channel only what kind it is."""
    told = settings.telling()
    found = [{"name": f"otlp-{one.name}", "to": one.endpoint, "as": one.preset} for one in told.destinations]
    if told.metrics is not None:
        found.append({"name": "metrics", "to": "/metrics", "as": "OpenMetrics"})
    if told.alerts is not None:
        found.append({"name": "alerts", "to": "/api/alerts", "as": "JSON"})
        for channel in told.alerts.channels:
            kind = "webhook" if channel.webhook else channel.url.partition("://")[0]
            found.append({"name": "alerts", "to": channel.name, "as": kind})
    return found


def _providers(settings: Settings) -> list[dict[str, Any]]:
    held = settings.secrets()
    found: list[dict[str, Any]] = []
    taken: set[str] = set()
    for name, provider in settings.providers().items():
        default_for = [dialect for dialect in provider.dialects if dialect not in taken]
        taken.update(default_for)
        found.append(
            {
                "name": name,
                "preset": provider.preset or None,
                "origin": provider.origin,
                "dialects": list(provider.dialects),
                "default_for": default_for,
                "key": "configured" if name in held else "the client's own",
            }
        )
    return found


def _budgets(settings: Settings) -> list[dict[str, Any]]:
    """One for each unit of each budget, as `/api/budgets` spells them: dollars as texts, other units as numbers."""
    return [
        {
            "name": b.name,
            "scope": b.scope,
            "per": b.window.per if b.window else "run",
            "zone": b.window.zone if b.window else None,
            "unit": "usd" if b.unit == "nusd" else b.unit,
            "limit": _amount(b.unit, b.limit),
            "max": _amount(b.unit, b.most),
            "mode": b.mode,
            "on_exceed": b.on_exceed,
            "degrade_to": b.degrade_to,
            "alert_at": [spelled for spelled, _ in b.alert_at],
            "share": b.part / 1000,
            "clamp": b.clamp,
        }
        for b in settings.budget_rules()
    ]


def _amount(unit: str, value: int) -> str | int:
    from decimal import Decimal

    return f"{Decimal(value).scaleb(-9):f}" if unit == "nusd" else value


def _row(budget: dict[str, Any]) -> list[str]:
    window = "" if budget["zone"] is None else f" per {budget['per']}"
    zone = "" if budget["zone"] in (None, "UTC") else f" ({budget['zone']})"
    then = {"stop": "", "last_call": ", last call", "degrade": f", then {budget['degrade_to']}"}
    return [
        budget["name"],
        f"{budget['scope']}{window}{zone}",
        amount(budget["unit"], budget["limit"]),
        amount(budget["unit"], budget["max"]) if budget["max"] != budget["limit"] else "-",
        f"{budget['mode']}{then[budget['on_exceed']]}",
    ]


def _show(facts: dict[str, Any]) -> None:
    click.echo(f"configuration  {facts['file'] or 'none: built-in defaults'}")
    click.echo(f"data plane     {facts['data_plane']} (auth: {facts['auth']}, {len(facts['keys'])} virtual keys)")
    click.echo(f"control plane  {facts['control_plane']}")
    click.echo(f"ledger         {facts['ledger']}")
    click.echo(f"unknown price  {facts['unknown_prices']}; unmetered paths: {facts['unmetered']}\n")
    rows = [[p["name"], p["origin"], p["key"], ", ".join(p["default_for"]) or "-"] for p in facts["providers"]]
    click.echo(table(["PROVIDER", "ORIGIN", "KEY", "DEFAULT FOR"], rows) + "\n")
    rows = [[p["name"], p["to"], p["as"]] for p in facts["projections"]]
    click.echo(table(["TOLD", "TO", "AS"], rows) + "\n" if rows else "nothing is told: no metrics, alerts, spans\n")
    rows = [_row(budget) for budget in facts["budgets"]]
    click.echo(table(["BUDGET", "SCOPE", "LIMIT", "UP TO", "MODE"], rows, right=("LIMIT", "UP TO")))
