"""`meterbox alerts`: what was told, to whom; mute, ack; and a test message to every channel.

Invariant: the list, a mute and an ack go through a running gateway's `/api`; a test is sent by this process itself, so
that it needs no gateway and disturbs none. What never enters: the ledger's file, a channel's address or secret.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli.control import Control, segment
from gateway.cli.options import VerbFailed, settings_of, show_json, with_config, with_json
from gateway.cli.words import count, harmless, instant, moment, table

_MOST: Final = 10_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN: Final = re.compile(r"(\d{1,6})([smhd])")
_ID: Final = click.argument("alert_id", metavar="ID")


@click.group("alerts", invoke_without_command=True)
@with_config
@with_json
@click.option("--limit", type=click.IntRange(1, _MOST), default=50, show_default=True, help="At most this many.")
@click.option("--firing", is_flag=True, help="Only those that go on.")
@click.pass_context
def command(ctx: click.Context, config: Path | None, as_json: bool, limit: int, firing: bool) -> None:
    """List alerts, the latest first; mute or ack one; send a test to every channel."""
    ctx.obj = config
    if ctx.invoked_subcommand is None:
        _list(config, as_json, limit, firing)


@command.command("list")
@with_config
@with_json
@click.option("--limit", type=click.IntRange(1, _MOST), default=50, show_default=True, help="At most this many.")
@click.option("--firing", is_flag=True, help="Only those that go on.")
@click.pass_context
def list_(ctx: click.Context, config: Path | None, as_json: bool, limit: int, firing: bool) -> None:
    """List alerts, the latest first."""
    _list(config or ctx.obj, as_json, limit, firing)


@command.command("mute")
@with_config
@with_json
@_ID
@click.option("--for", "span", metavar="SPAN", help="So long: 30m, 2h, 1d (default: 2h; 0s takes a mute back).")
@click.option("--until", "until", metavar="T", help="Until this instant, as 2026-11-20T12:00:00Z.")
@click.pass_context
def mute(
    ctx: click.Context, config: Path | None, as_json: bool, alert_id: str, span: str | None, until: str | None
) -> None:
    """Tell nothing of alert ID for a while; what is still true then is told."""
    at = until_of(span, until)
    control = Control(settings_of(config or ctx.obj))
    said = control.post(f"/api/alerts/{segment(alert_id)}/mute", {"until": at})
    if as_json:
        return show_json(said)
    name = harmless(alert_id, 40)
    if instant(at) <= instant(said["at"]):
        return click.echo(f"{name} is not muted")
    click.echo(f"{name} is muted until {moment(at)}; `meterbox alerts mute {name} --for 0s` ends that")


@command.command("ack")
@with_config
@with_json
@_ID
@click.pass_context
def ack(ctx: click.Context, config: Path | None, as_json: bool, alert_id: str) -> None:
    """Say that somebody has alert ID: no repeats; its end is told all the same."""
    said = Control(settings_of(config or ctx.obj)).post(f"/api/alerts/{segment(alert_id)}/ack", {})
    if as_json:
        return show_json(said)
    click.echo(f"{harmless(alert_id, 40)} is acknowledged: it is not repeated, its end is told")


@command.command("test")
@with_config
@with_json
@click.pass_context
def test(ctx: click.Context, config: Path | None, as_json: bool) -> None:
    """Send one message to every channel; exit status 1 if one did not take it."""
    from gateway.edge.api_alerts import send_trial
    from gateway.edge.channels import senders
    from gateway.edge.clock import SystemClock

    rules, clock = settings_of(config or ctx.obj).telling().alerts, SystemClock()
    if rules is None or not rules.channels:
        raise VerbFailed(
            "no channel is configured: write one under [projections.alerts.channels.NAME], see docs/alerts.md"
        )
    found = []
    for item in send_trial(senders(rules, clock), clock):
        found.append(item)
        if not as_json:
            click.echo(f"{harmless(item.channel, 64)}: {'taken' if item.taken else harmless(item.error)}")
    if as_json:
        show_json({"items": [item.model_dump() for item in found]})
    lost = [item for item in found if not item.taken]
    if lost:
        raise VerbFailed(f"{count(len(lost), 'channel')} of {len(found)} did not take the message")


def until_of(span: str | None, until: str | None) -> str:
    """When a mute ends, as the control plane takes it. Raises UsageError."""
    if span is not None and until is not None:
        raise click.UsageError("say either --for or --until")
    if until is not None:
        return _utc(until)
    from gateway.edge.clock import SystemClock

    found = _SPAN.fullmatch((span or "2h").strip().lower())
    if found is None:
        raise click.UsageError("--for takes a number and one of s, m, h, d: 30m, 2h, 1d")
    seconds = min(int(found[1]) * _UNITS[found[2]], 10 * 365 * 86_400)
    at = datetime.fromtimestamp(int(SystemClock().now()) + seconds, UTC)
    return at.isoformat().replace("+00:00", "Z")


def _utc(said: str) -> str:
    try:
        at = datetime.fromisoformat(said)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        raise click.UsageError("--until takes an instant like 2026-11-20T12:00:00Z") from None


def _list(config: Path | None, as_json: bool, limit: int, firing: bool) -> None:
    found = Control(settings_of(config)).items("/api/alerts", _MOST if firing else limit)
    if firing:
        found = [item for item in found if item["state"] != "resolved"][:limit]
    if as_json:
        return show_json({"items": found})
    if not found:
        return click.echo("No alert goes on." if firing else "No alert yet.", err=True)
    click.echo("\n".join(lines_of(found)))


def lines_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each alert, its sentence below it, and what keeps it from being told."""
    heads = ["ALERT", "STATE", "WHAT", "SEVERITY", "SINCE (UTC)", "TOLD"]
    rows = [
        [
            item["alert_id"],
            "acked" if item["acked_at"] and item["state"] == "firing" else item["state"],
            item["labels"]["alertname"],
            item["labels"]["severity"],
            moment(item["first_at"])[5:].removesuffix("Z"),
            _told(item["deliveries"]),
        ]
        for item in found
    ]
    head, *body = table(heads, rows).split("\n")
    said = [head]
    for item, row in zip(found, body, strict=True):
        said += [row, f"  {harmless(item['annotations']['summary'], 160)}", *_kept(item["deliveries"])]
    return said


def _kept(deliveries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each channel that has not taken it, with its last error."""
    for one in deliveries:
        if one.get("last_error") and one["state"] != "delivered":
            name, why = harmless(one["channel"], 64), harmless(one["last_error"])
            yield f"  {name}: {one['state']}, {count(one['attempts'], 'attempt')}: {why}"


def _told(deliveries: Sequence[dict[str, Any]]) -> str:
    """2 delivered, 1 pending; a dash where no channel is."""
    counts = Counter(one["state"] for one in deliveries)
    return ", ".join(f"{many} {state}" for state, many in sorted(counts.items())) or "-"
