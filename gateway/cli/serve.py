"""`meterbox serve`: runs the gateway until SIGTERM or SIGINT, then drains it.

Invariant: what keeps it from starting is one clear line and exit status 1 (2 if it is the configuration's fault).
What never enters: how the gateway is put together (gateway/app.py).
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import VerbFailed, say, settings_of, with_config
from gateway.core.errors import ConfigError, MeterboxError

if TYPE_CHECKING:
    from gateway.config import Settings


@click.command("serve")
@with_config
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
def command(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway until SIGTERM or SIGINT; calls in flight are finished first."""
    settings = settings_of(config, {("server", "host"): host, ("server", "port"): port})
    for line in settings.warnings():
        say(f"warning: {line}")
    if settings.default_budget:
        say('every run may spend $10: no [[budgets]] of scope "run" is configured')
    try:
        _run(settings)
    except ConfigError as error:
        raise MeterboxError(str(error)) from error  # the file was fine; what it names can't be used: exit status 1
    except OSError as error:
        raise VerbFailed(_why(error, settings)) from error


def _run(settings: Settings) -> None:
    import uvloop

    from gateway.app import serve

    try:
        uvloop.run(serve(settings, ready=lambda where: say(f"ready on {where}")))
    except KeyboardInterrupt:
        say("stopped")


def _why(error: OSError, settings: Settings) -> str:
    server = settings.server
    if error.errno == errno.EADDRINUSE:
        return (
            f"{server.host}:{server.port} is taken by another program (another meterbox?): stop it, or choose another "
            "port with --port or [server] port"
        )
    if error.errno in (errno.EACCES, errno.EPERM) and 0 < server.port < 1_024:
        return f"port {server.port} needs special rights: choose a port from 1024 on with --port or [server] port"
    return f"can't start: {error}"
