"""`serve`: starts, stops, and says in one line what keeps it from starting."""

import errno
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gateway.cli.serve import _why
from gateway.config import load

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken():
    """A port that somebody else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def start(folder, *args):
    """`meterbox serve` with its state in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERBOX_")}
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", *args],
        cwd=folder,
        env={**kept, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    )


def failing(folder, *args):
    """Exit status and the last line of a start that fails."""
    with start(folder, *args) as process:
        _, err = process.communicate(timeout=20)
        return process.returncode, err.splitlines()


def test_it_says_when_it_is_ready_and_drains_on_sigterm(tmp_path):
    """One line when calls are served, with the address; SIGTERM ends it with status 0."""
    with start(tmp_path, "--port", "0") as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ready on " in line:
                break
        assert lines[0].startswith("meterbox: every run may spend $10: no [[budgets]]")
        where = lines[-1].strip().rpartition(" ")[2]
        with urllib.request.urlopen(f"{where}/readyz", timeout=10) as answer:
            assert 200 == answer.status
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert 0 == process.returncode


def test_a_busy_port_is_one_clear_line(tmp_path, taken):
    """Which address, and what to do; exit status 1, no traceback."""
    status, lines = failing(tmp_path, "--port", str(taken))
    assert 1 == status
    assert lines[-1].startswith(f"meterbox: 127.0.0.1:{taken} is taken by another program")
    assert not any("Traceback" in line for line in lines)


def test_a_state_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    """The folder is named; exit status 1."""
    (tmp_path / "state").write_text("a file, not a folder")
    status, lines = failing(tmp_path, "--port", "0")
    assert 1 == status
    assert str(tmp_path / "state") in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_corrupt_ledger_is_named_and_left_as_it_is(tmp_path):
    """Nothing is served until an operator moves it; no byte of it changes."""
    ledger = tmp_path / "state" / "meterbox" / "ledger.sqlite3"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"no database " * 1_000)
    status, lines = failing(tmp_path, "--port", "0")
    assert 1 == status
    assert str(ledger) in lines[-1] and "damaged" in lines[-1]
    assert b"no database " * 1_000 == ledger.read_bytes()


def test_a_bad_configuration_is_exit_status_two(tmp_path):
    """Usage and configuration are status 2."""
    (tmp_path / "meterbox.toml").write_text("[server]\nprot = 1\n")
    assert (2, ["meterbox: meterbox.toml:2: server.prot: unknown key. Did you mean `port`?"]) == failing(tmp_path)


def test_a_low_port_without_rights_is_explained(tmp_path):
    """EACCES on a port below 1024 says so."""
    settings = load(None, {"HOME": str(tmp_path)}, {("server", "port"): 80})
    assert "port 80 needs special rights" in _why(OSError(errno.EACCES, "no"), settings)
    assert "can't start: " in _why(OSError(errno.EIO, "no"), settings)
