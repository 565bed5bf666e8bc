"""cli/worker.py: a worker process by itself, with this test as its supervisor. Together: tests/e2e/test_workers.py."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.edge.leash import DATA, Said, Text, Told, framed
from gateway.edge.sockets import listen, url_of
from gateway.edge.supervisor import COMMAND


class Hung:
    """A worker, and the other end of its leash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.leash, theirs = socket.socketpair()
        self.leash.settimeout(60)
        (self.listener,) = listen("127.0.0.1", 0)
        handed = (theirs.fileno(), self.listener.fileno())
        self.process = subprocess.Popen([*COMMAND, str(theirs.fileno())], pass_fds=handed, stderr=subprocess.DEVNULL)
        theirs.close()

    def tell(self, text: str, number: int = 0) -> None:
        config = Text(str(self.folder / "meterbox.toml"), text, number)
        self.leash.sendall(framed(Told(config, 1, {DATA: [self.listener.fileno()]})))

    def heard(self) -> Said:
        return msgspec.json.decode(self.leash.recv(1 << 16), type=Said)


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Hung]:
    made = Hung(tmp_path)
    yield made
    made.leash.close()
    made.listener.close()
    made.process.kill()
    made.process.wait()


def text(folder: Path, more: str = "") -> str:
    return f"[server]\nworkers = 2\n[stores.sqlite]\npath = '{folder}/ledger.db'\n{more}"


def test_it_serves_takes_over_and_ends_with_its_supervisor(hung: Hung) -> None:
    """Ready on the socket that it was handed; a later configuration is judged; the end of the pair is its own."""
    hung.tell(text(hung.folder))
    assert Said("ready") == hung.heard()
    with urllib.request.urlopen(f"{url_of(hung.listener.getsockname())}/readyz", timeout=10) as answer:
        assert 200 == answer.status
    hung.tell(text(hung.folder, "[runs]\nidle_s = 5\n"), 1)
    assert Said("taken", number=1) == hung.heard()
    hung.tell(text(hung.folder, "[runs]\nidle = 5\n"), 2)
    refused = hung.heard()
    assert ("refused", 2, True) == (refused.kind, refused.number, "runs.idle: unknown key" in refused.why)
    hung.leash.close()
    assert 0 == hung.process.wait(20)


def test_it_says_why_it_can_not_start(hung: Hung) -> None:
    """One sentence over the leash, exit status 1."""
    (hung.folder / "ledger.db").write_bytes(b"no database " * 1_000)
    hung.tell(text(hung.folder))
    said = hung.heard()
    assert ("failed", True) == (said.kind, "damaged" in said.why)
    assert 1 == hung.process.wait(20)


def test_a_start_ends_with_its_supervisor(hung: Hung) -> None:
    """It doesn't keep the port until it finds out."""
    hung.leash.close()
    assert 1 == hung.process.wait(20)
    assert not (hung.folder / "ledger.db").exists()
