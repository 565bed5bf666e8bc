"""What every verb shares: `--config`, `--json`, how settings are read, and how a verb says that it failed.

Invariant: data goes to stdout, talk to stderr. What never enters: a verb's own business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gateway.config import Settings

Verb = Callable[..., Any]


class VerbFailed(click.ClickException):
    """The command failed: one clear line, exit status 1."""

    def show(self, file: Any = None) -> None:
        """The line, spelled as all talk is."""
        click.echo(f"meterbox: {self.message}", file=file, err=True)


def with_config(verb: Verb) -> Verb:
    """Adds --config."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Configuration (default: ./meterbox.toml if it exists).",
    )(verb)


def with_json(verb: Verb) -> Verb:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(verb)


def settings_of(config: Path | None, flags: Mapping[tuple[str | int, ...], Any] | None = None) -> Settings:
    """The settings that are in force for this command. Raises ConfigError."""
    from gateway.config import load

    return load(config, os.environ, {key: value for key, value in (flags or {}).items() if value is not None})


def say(line: str) -> None:
    """Talk, on stderr."""
    click.echo(f"meterbox: {line}", err=True)


def show_json(data: Any) -> None:
    """Data, on stdout."""
    import json

    click.echo(json.dumps(data, indent=2, ensure_ascii=True))
