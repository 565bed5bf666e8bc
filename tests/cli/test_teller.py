"""The entry of the projections' process; what it does with a real parent stands in tests/edge/test_teller.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import msgspec
import pytest

from gateway.cli.teller import NICE
from gateway.core.telemetry.settings import MetricRules, Placed, Telling
from gateway.edge.teller import COMMAND, STOP
from tests.fakes import FakeClock
from tests.ledgers import opened, sqlite


def started(channel: socket.socket) -> subprocess.Popen[bytes]:
    """The real process, as its parent starts it."""
    return subprocess.Popen(
        [*COMMAND, str(channel.fileno())],
        pass_fds=(channel.fileno(),),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_one_that_is_told_nothing_ends():
    """Its parent was gone before it said a word."""
    ours, theirs = socket.socketpair()
    with theirs, started(theirs) as process:
        ours.close()
        theirs.close()
        assert 1 == process.wait(20)
        assert process.stderr is not None and b"" == process.stderr.read()


@pytest.mark.parametrize(("last", "status"), [(STOP, 0), (b"", 1)])
async def test_it_is_ready_stands_back_and_ends(tmp_path, last, status):
    """It says that it is ready, lets calls go first, and ends when it is told to, or alone."""
    async with opened(sqlite(tmp_path, FakeClock())):
        ours, theirs = socket.socketpair()
        with ours, theirs, started(theirs) as process:
            theirs.close()
            ours.settimeout(30)
            many = {f"section{number}": Placed("openai", "api.openai.com", 443) for number in range(20_000)}
            telling = Telling(str(tmp_path / "ledger.db"), metrics=MetricRules(), sections=many)
            ours.sendall(msgspec.json.encode(telling) + b"\n")  # more than a pair holds: it comes in parts
            assert b"ready\n" == ours.recv(64)
            assert os.getpriority(os.PRIO_PROCESS, 0) + NICE == os.getpriority(os.PRIO_PROCESS, process.pid)
            if last:
                ours.sendall(last)
            else:
                ours.close()
            assert status == process.wait(20)
            assert process.stderr is not None and b"" == process.stderr.read()


def test_it_needs_no_click_and_no_pydantic():
    """What it imports before it knows what to do is small."""
    code = "import sys, gateway.cli.teller\nprint([n for n in ('click', 'pydantic', 'asyncio') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert "[]\n" == done.stdout
