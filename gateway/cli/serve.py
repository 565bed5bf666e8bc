"""`meterbox serve`: runs the gateway until SIGTERM or SIGINT, then drains it; SIGHUP reads the configuration again.

With `[server] workers = 1` this process serves; with more it supervises those that do (edge/supervisor.py).

Invariant: what keeps it from starting is one clear line and exit status 1 (2 if it is the configuration's fault).
What never enters: how the gateway is put together (gateway/app.py).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.addresses import check_addresses
from gateway.cli.options import VerbFailed, say, with_config
from gateway.core.errors import ConfigError, MeterboxError

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.edge.leash import Text
    from gateway.edge.teller import Teller

Flags = Mapping[tuple[str | int, ...], Any]
_Read = tuple["Settings", "Text"]


@click.command("serve")
@with_config
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
def command(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway until SIGTERM or SIGINT; calls in flight are finished first."""
    given: Flags = {("server", "host"): host, ("server", "port"): port}
    flags = {path: value for path, value in given.items() if value is not None}
    settings, text = _read(config, flags)
    for line in settings.warnings():
        say(f"warning: {line}")
    if settings.default_budget:
        say('every run may spend $10: no [[budgets]] of scope "run" is configured')
    try:
        if settings.server.workers == 1:
            _run(settings, lambda: _read(config, flags)[0])
        else:
            _supervise(settings, text, flags, lambda: _read(config, flags)[1])
    except ConfigError as error:
        raise MeterboxError(str(error)) from error  # the file was fine; what it names can't be used: exit status 1
    except OSError as error:
        raise VerbFailed(_why(error, settings)) from error


def _read(config: Path | None, flags: Flags) -> _Read:
    """The settings that are in force for this command, and the text that they were read from. Raises ConfigError."""
    from gateway.config import file_of, load
    from gateway.edge.leash import Text

    file, text = file_of(config), b""
    try:
        text = file.read_bytes() if file is not None else b""
    except OSError:
        load(file, os.environ, flags)  # says what is the matter
        raise
    settings = load(file, os.environ, flags, text)
    check_addresses(settings)
    return settings, Text(str(file) if file is not None else None, text.decode())


def _run(settings: Settings, reread: Callable[[], Settings]) -> None:
    import uvloop

    from gateway.app import serve

    try:
        uvloop.run(serve(settings, ready=_ready, reread=reread))
    except KeyboardInterrupt:
        say("stopped")


def _supervise(settings: Settings, text: Text, flags: Flags, reread: Callable[[], Text]) -> None:
    """Listens, and keeps `workers` processes that serve. This process itself stays small and idle."""
    from gateway.edge import supervisor
    from gateway.edge.clock import SystemClock
    from gateway.edge.leash import CONTROL, DATA
    from gateway.edge.log import Log
    from gateway.edge.sockets import listen, url_of
    from gateway.edge.tasks import DRAIN_S
    from gateway.edge.teller import Teller

    server, own = settings.server, settings.admin_listener()
    clock = SystemClock()
    log = Log(sys.stderr, clock)
    with closing(Teller(clock, log)) as teller, supervisor.signals() as wake:
        listeners = {DATA: listen(server.host, server.port)}
        if own is not None:
            listeners[CONTROL] = listen(*own)
        where = url_of(listeners[DATA][0].getsockname())
        plan = supervisor.Plan(
            workers=server.workers,
            listeners=listeners,
            config=text,
            flags=[([str(part) for part in path], value) for path, value in flags.items()],
            reread=reread,
            drain_s=DRAIN_S,
            taken=lambda taken: _tell(teller, taken, flags, settings),
        )

        def ready() -> None:
            _ready(where)
            teller.tell(settings.telling())

        supervisor.Supervisor(plan, clock, log, wake).run(ready)


def _tell(teller: Teller, taken: Text, flags: Flags, first: Settings) -> None:
    """The projections go by what the workers took over; the ledger's place waits for a restart."""
    from msgspec import structs

    from gateway.config import load

    now = load(taken.path, os.environ, flags, taken.text.encode()).telling()
    teller.tell(structs.replace(now, ledger=str(first.ledger_path)))


def _ready(where: str) -> None:
    say(f"ready on {where}")


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
