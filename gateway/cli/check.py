"""`meterbox check`: reads the configuration and shows what would be in force, without starting or changing anything.

Invariant: no secret is shown, not even in part; nothing is created. What never enters: the network, the ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.control import bracketed
from gateway.cli.options import say, settings_of, show_json, with_config, with_json
from gateway.cli.words import money, table

if TYPE_CHECKING:
    from gateway.config import Settings


@click.command("check")
@with_config
@with_json
def command(config: Path | None, as_json: bool) -> None:
    """Check the configuration and show what would be in force. Exit status 2 if it can't be used."""
    settings = settings_of(config)
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
        "warnings": settings.warnings(),
    }


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
    from decimal import Decimal

    def usd(nusd: int) -> str:
        return f"{Decimal(nusd).scaleb(-9):f}"

    return [
        {
            "name": b.name,
            "scope": "run",
            "usd": usd(b.limit),
            "max_usd": usd(b.most),
            "mode": "shadow" if b.shadow else "strict",
            "clamp": b.clamp,
        }
        for b in settings.run_budgets()
    ]


def _show(facts: dict[str, Any]) -> None:
    click.echo(f"configuration  {facts['file'] or 'none: built-in defaults'}")
    click.echo(f"data plane     {facts['data_plane']} (auth: {facts['auth']}, {len(facts['keys'])} virtual keys)")
    click.echo(f"control plane  {facts['control_plane']}")
    click.echo(f"ledger         {facts['ledger']}")
    click.echo(f"unknown price  {facts['unknown_prices']}; unmetered paths: {facts['unmetered']}\n")
    rows = [[p["name"], p["origin"], p["key"], ", ".join(p["default_for"]) or "-"] for p in facts["providers"]]
    click.echo(table(["PROVIDER", "ORIGIN", "KEY", "DEFAULT FOR"], rows) + "\n")
    rows = [[b["name"], b["scope"], money(b["usd"]), money(b["max_usd"]), b["mode"]] for b in facts["budgets"]]
    click.echo(
        table(["BUDGET", "SCOPE", "LIMIT", "MAY BE RAISED TO", "MODE"], rows, right=("LIMIT", "MAY BE RAISED TO"))
    )
