"""The command line `meterbox` (also `python -m gateway`): a file in gateway/cli for each verb, imported when called.

Invariant: `--help` imports no verb and needs no network; every error is a clear line on stderr, exit status 2 for usage
and configuration, 1 for what failed. What never enters: what a verb does.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from gateway.core.errors import ConfigError, MeterboxError

# verb -> (module, what it does): the words stand here so that --help needs no verb's imports
_VERBS = {
    "serve": ("serve", "Run the gateway until it is told to stop."),
    "check": ("check", "Check the configuration and show what would be in force."),
    "run": ("run", "Run a command with its LLM calls metered as one run."),
    "runs": ("runs", "List runs, or show one: what happened, what it cost, why it stopped."),
    "kill": ("kill", "Stop a run, an agent, a user, or everything."),
    "resume": ("resume", "Let a stopped run, agent, user, or everything go on."),
    "budget": ("budget", "List budgets, or show and change the limit of a run."),
    "alerts": ("alerts", "List alerts, mute or ack one, send a test to every channel."),
    "prices": ("prices", "Show the price list that calls are metered by, or compare with a provider's report."),
    "ledger": ("ledger", "Audit the ledger's file, back it up, correct what a call was charged."),
    "demo": ("demo", "Watch a runaway meet its limit: no key, no network, half a minute."),
}


class Verbs(click.Group):
    """The verbs in the order of the table above; a verb's module is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """All verbs, in the order in which they are told."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        """The verb, imported now."""
        if cmd_name not in _VERBS:
            return None
        command: click.Command = importlib.import_module(f"gateway.cli.{_VERBS[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's
        """The list of verbs, without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, says) for verb, (_, says) in _VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Names the nearest verb where there is none."""
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], list(_VERBS), n=1)
            hint = f" Did you mean `{near[0]}`?" if near else " `meterbox --help` lists all verbs."
            ctx.fail(f"there is no verb {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each verb takes --config FILE (default ./meterbox.toml) and has its own --help.",
)
@click.version_option(package_name="meterbox", prog_name="meterbox")
def meterbox() -> None:
    """The meter and the breaker between LLM agents and their providers."""


def main(args: list[str] | None = None) -> None:
    """Runs a verb and ends the process with its exit status."""
    try:
        meterbox.main(args, prog_name="meterbox", standalone_mode=True)
    except ConfigError as error:
        click.echo(f"meterbox: {error}", err=True)
        sys.exit(2)
    except MeterboxError as error:
        click.echo(f"meterbox: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # whoever read our output has left (`| head`): keep the interpreter from failing again at its last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
