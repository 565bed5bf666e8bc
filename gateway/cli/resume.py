"""`meterbox resume`: lets a killed or paused run, agent, user, or everything go on.

Invariant: exactly one target; what was spent stays spent. What never enters: the ledger's file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.control import Control, segment
from gateway.cli.kill import target_of, with_target
from gateway.cli.options import settings_of, show_json, with_config, with_json
from gateway.cli.words import harmless, money


@click.command("resume")
@with_config
@with_json
@with_target
def command(config: Path | None, as_json: bool, run_id: str | None, **words: Any) -> None:
    """Let run R go on (or an agent, a user, all); what it spent stays spent."""
    target = target_of(run_id, words["everything"], words["agent"], words["user"])
    control = Control(settings_of(config))
    if run_id is not None:
        said = control.post(f"/api/runs/{segment(run_id)}/resume", {}, key=words["key"])
        line = f"{harmless(said['run_id'], 140)} is {said['state']}; it has spent {money(said['spent_usd'])}"
    else:
        said = control.post("/api/resume", target)
        line = "new runs are admitted again; runs that were killed stay killed until each is resumed"
    if as_json:
        show_json(said)
    else:
        click.echo(line)
