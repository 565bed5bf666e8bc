"""`meterbox kill`: stops a run with its descendants, or every run of an agent, of a user, or all.

Invariant: exactly one target, so that nothing is stopped by accident. What never enters: the ledger's file.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli.control import Control, segment
from gateway.cli.options import Verb, settings_of, show_json, with_config, with_json
from gateway.cli.words import count, harmless
from gateway.core.telemetry.alerts.texts import pasted

_NAMED: Final = ("agent", "user")


def with_target(verb: Verb) -> Verb:
    """Adds the four ways to name whom a switch is for."""
    verb = click.option("--key", help="Name of the virtual key, where two keys have a run of this id.")(verb)
    verb = click.option("--user", help="All runs of this user.")(verb)
    verb = click.option("--agent", help="All runs of this agent.")(verb)
    verb = click.option("--all", "everything", is_flag=True, help="All runs.")(verb)
    return click.argument("run_id", metavar="[R]", required=False)(verb)


def target_of(run_id: str | None, everything: bool, agent: str | None, user: str | None) -> dict[str, Any]:
    """The body that names the target; empty for a run. Raises UsageError unless exactly one is named."""
    named: dict[str, Any] = {"all": everything or None, "agent": agent, "user": user}
    named = {word: value for word, value in named.items() if value is not None}
    if len(named) + (run_id is not None) != 1:
        raise click.UsageError("name exactly one: a run, --agent NAME, --user NAME or --all")
    return named


@click.command("kill")
@with_config
@with_json
@with_target
@click.option("--reason", default="stopped by the operator", show_default=True, help="What the refused calls are told.")
def command(config: Path | None, as_json: bool, run_id: str | None, reason: str, **words: Any) -> None:
    """Stop run R and its descendants; open streams end at once, later calls are refused until `resume`."""
    target = target_of(run_id, words["everything"], words["agent"], words["user"])
    control = Control(settings_of(config))
    if run_id is not None:
        said = control.post(f"/api/runs/{segment(run_id)}/kill", {"reason": reason}, key=words["key"])
        again = pasted("resume", harmless(run_id, 140), harmless(words["key"] or "", 140))
        line = f"killed {harmless(said['run_id'], 140)}; `{again}` lets it go on"
    else:
        said = control.post("/api/kill", {**target, "reason": reason})
        again = next((f"--{word} {shlex.quote(harmless(words[word], 140))}" for word in _NAMED if words[word]), "--all")
        line = (
            f"killed {count(said['runs'], 'run')} and ended {count(said['calls'], 'open call')}; new runs are refused "
            f"until `meterbox resume {again}`"
        )
    if as_json:
        show_json(said)
    else:
        click.echo(line)
