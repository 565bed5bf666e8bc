"""`meterbox run -- CMD`: runs any command with its LLM calls metered as one run, and prints the receipt.

Invariant: CMD's stdin, stdout, stderr and exit status are its own; the gateway that answers is used, and one that was
started for this command ends with it. What never enters: a change of CMD itself, a provider's key.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from gateway.cli.budget import UNITS, dollars
from gateway.cli.control import Control, bracketed, reachable, segment
from gateway.cli.options import VerbFailed, say, settings_of, with_config
from gateway.cli.words import amount, count, harmless, money

if TYPE_CHECKING:
    from gateway.config import Settings

_READY_S = 15.0
_LOOK_S = 0.05
_STOP_S = 10.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@click.command("run", context_settings={"allow_interspersed_args": False})
@with_config
@click.option("--budget", metavar="USD", help="What this run may spend at most (the configuration's limit holds too).")
@click.option("--limit", metavar="WORDS", help="Other limits, as calls=40,tools=20,tokens=100000,seconds=600.")
@click.argument("words", nargs=-1, required=True, metavar="-- CMD [ARGS]...")
def command(config: Path | None, budget: str | None, limit: str | None, words: tuple[str, ...]) -> None:
    """Run CMD with its LLM calls metered as one run; the receipt comes on stderr."""
    settings = settings_of(config)
    asked = {**({"usd": dollars(budget)} if budget is not None else {}), **limits_of(limit or "")}
    with _gateway(settings, config) as control:
        tenant = _tenant(settings)
        run = control.post("/api/runs", {"limits": asked} if asked else {}, key=tenant)
        for line in lowered(asked, run["limits"]):
            say(line)
        status = _wrapped(words, environment(os.environ, _base(settings, run["run_id"]), run["run_id"]))
        _receipt(control, run["run_id"], tenant, status)
    sys.exit(status)


def limits_of(text: str) -> dict[str, int]:
    """`calls=40,tools=20` as limits by unit. Raises UsageError."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        word, _, number_said = part.partition("=")
        unit = {"tools": "tool_calls"}.get(word.strip(), word.strip().replace("-", "_"))
        plain = number_said.strip()
        if unit not in UNITS[1:] or unit in found or not (plain.isascii() and plain.isdigit() and len(plain) < 13):
            raise click.UsageError(
                f"--limit {harmless(part, 60)}: write each of calls, tools, tokens, seconds at most once, with a whole "
                "number, as in calls=40,seconds=600 (dollars are --budget)"
            )
        found[unit] = int(plain)
    return found


def lowered(asked: Mapping[str, Any], in_force: Mapping[str, Any]) -> Iterator[str]:
    """What the configuration allows less of than was asked for."""
    for unit, wanted in asked.items():
        given = in_force.get(unit)
        if given is not None and Decimal(given) < Decimal(wanted):
            yield (
                f"the configuration allows {amount(unit, given)} a run, so that is this run's limit, "
                f"not {amount(unit, wanted)}"
            )


# --------------------------------------------------------------------------- the command


def environment(environ: Mapping[str, str], base: str, run_id: str) -> dict[str, str]:
    """CMD's environment: the base URLs that SDKs and frameworks read, the run in their path, no proxy before."""
    host = urlsplit(base).hostname or ""
    proxied = any(name.lower() in ("http_proxy", "all_proxy") for name in environ)
    spared = {name: ",".join(filter(None, (environ.get(name), host))) for name in ("NO_PROXY", "no_proxy") if proxied}
    return {
        **environ,
        **spared,
        "OPENAI_BASE_URL": f"{base}/v1",  # SDKs, and most frameworks above them
        "OPENAI_API_BASE": f"{base}/v1",  # LangChain, LiteLLM, Aider
        "ANTHROPIC_BASE_URL": base,  # SDKs, Claude Code
        "ANTHROPIC_API_BASE": base,  # LiteLLM
        "METERBOX_RUN_ID": run_id,
    }


def _base(settings: Settings, run_id: str) -> str:
    server = settings.server
    key = os.environ.get("METERBOX_KEY")
    return f"http://{bracketed(reachable(server.host))}:{server.port}/run/{segment(run_id)}" + (
        f"/key/{segment(key)}" if key else ""
    )


def _tenant(settings: Settings) -> str | None:
    """The name of the virtual key that CMD's calls will show: runs belong to keys where keys are required."""
    if not settings.keys_required:
        return None
    key_id = os.environ.get("METERBOX_KEY", "").partition(".")[0]
    if not key_id:
        raise VerbFailed("this gateway requires virtual keys: put one into the environment variable METERBOX_KEY")
    for known in settings.keys:
        text = known.secret.reveal() if known.secret is not None else known.hash or ""
        if text.partition(".")[0] == key_id:
            return known.name
    raise VerbFailed("the virtual key in METERBOX_KEY is none of the configuration's [[keys]]: check both")


def _wrapped(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the command to its end, passing signals on; its exit status as a shell would give it."""
    child: list[subprocess.Popen[bytes]] = []
    with _forwarding(child):
        try:
            child.append(subprocess.Popen(words, env=dict(environ)))  # noqa: S603  running CMD is what the verb is for
        except OSError as error:
            say(f"{harmless(words[0], 200)} can't be run: {error.strerror}")
            return 127 if isinstance(error, FileNotFoundError) else 126
        status = child[0].wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _forwarding(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Signals go to the command, once it runs. What a terminal sends to its whole group has reached it."""
    from_terminal = {signal.SIGINT, signal.SIGQUIT} if sys.stdin is not None and sys.stdin.isatty() else set()

    def forward(number: int, _frame: FrameType | None) -> None:
        for child in children:
            if number not in from_terminal and child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _receipt(control: Control, run_id: str, tenant: str | None, status: int) -> None:
    """Ends the run and says on stderr what it cost. A receipt that can't be had must not change CMD's exit status."""
    path = f"/api/runs/{segment(run_id)}"
    try:
        run: dict[str, Any] = control.get(path, key=tenant)
        if run["state"] == "active" and run["outcome"] is None:
            ending = {"outcome": "failed" if status else "completed", "reason": f"exit status {status}"}
            run = control.post(f"{path}/end", ending, key=tenant)
    except VerbFailed as error:
        return say(f"run {run_id}: no receipt: {error}")
    limit = run["limits"].get("usd")
    of = f" of {money(limit)}" if limit is not None else ""
    say(f"run {run_id}: {count(run['calls'], 'call')}, {money(run['spent_usd'])}{of}; meterbox runs show {run_id}")


# --------------------------------------------------------------------------- the gateway


@contextmanager
def _gateway(settings: Settings, config: Path | None) -> Iterator[Control]:
    """The gateway that answers on the configured port, or one that lives as long as the command."""
    control = Control(settings)
    if control.answers():
        yield control
        return
    command_line = [sys.executable, "-m", "gateway", "serve", *(["--config", str(config)] if config else [])]
    with tempfile.TemporaryFile() as log:
        # a session of its own: Ctrl-C is for CMD, whose last calls the gateway still has to settle
        started = subprocess.Popen(  # noqa: S603  our own interpreter and module
            command_line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if not _until_ready(control, started):
                log.seek(0)
                words = log.read()[-2_000:].decode("utf-8", "replace").strip()
                raise VerbFailed(f"no gateway answers on {control.origin}, and none could be started:\n{words}")
            yield control
        finally:
            _stop(started)


def _until_ready(control: Control, started: subprocess.Popen[bytes]) -> bool:
    for _ in range(int(_READY_S / _LOOK_S)):
        if started.poll() is not None:
            return False
        if control.answers():
            return True
        time.sleep(_LOOK_S)
    return False


def _stop(started: subprocess.Popen[bytes]) -> None:
    started.terminate()
    try:
        started.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
