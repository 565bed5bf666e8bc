"""The real thing for end-to-end tests: `serve` as a process on loopback, a plain HTTP client, and the ledger by /api.

Invariant: everything runs on free ports in a folder of the test's own, and is gone after the test.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / "../shared"
NUSD = 1_000_000_000


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nusd(text: str | None) -> int:
    """Exact nano-dollars of a decimal string."""
    assert text is not None
    amount = Decimal(text) * NUSD
    assert amount == int(amount), f"{text} is finer than a nano-dollar"
    return int(amount)


class Answer:
    """A whole HTTP answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Gateway:
    """One `serve` process, with `workers` below it; `config` is its meterbox.toml without [server] and [stores]."""

    def __init__(self, folder: Path, config: str, *, server: str = "", workers: int = 1) -> None:
        self.port = free_port()
        self.folder = folder
        self.file = folder / "meterbox.toml"
        self.log = folder / "gateway.log"
        self.ledger = folder / "state" / "ledger.db"
        self.workers = workers
        self._server = server
        self.write(config)
        self.ledger.parent.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, config: str, server: str | None = None) -> None:
        """Another configuration; it counts from the next start or `hup` on."""
        server = self._server if server is None else server
        head = f"[server]\nport = {self.port}\nworkers = {self.workers}\n{server}\n"
        whole = self.file.with_suffix(".whole")  # an earlier SIGHUP may read while this is written
        whole.write_text(f'{head}[stores.sqlite]\npath = "{self.ledger}"\n{config}')
        whole.replace(self.file)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Gateway:
        """Starts it and waits until calls are served."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("METERBOX_")}
        env["XDG_STATE_HOME"] = str(self.folder / "home")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(self.file)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=env,
            )
        until = time.monotonic() + 45 + 15 * self.workers
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
            try:
                if self.get("/readyz").status == 200 and (self.workers == 1 or len(self.pids()) == self.workers):
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not ready in time: {self.log.read_text()[-2000:]}")

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log that tell of this event."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [
            line for line in map(json.loads, filter(lambda line: line.startswith("{"), lines)) if line["event"] == event
        ]

    def says(self, event: str, count: int = 1, seconds: float = 10) -> list[dict[str, Any]]:
        """The same once there are so many of them."""
        until = time.monotonic() + seconds
        while len(found := self.said(event)) < count:
            assert time.monotonic() < until, f"{len(found)} times {event}, not {count}: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)
        return found

    def pids(self) -> dict[int, int]:
        """The worker processes that serve now, by their numbers."""
        serve: dict[int, int] = {}
        for line in self.said("worker_ready") if self.process is not None else ():
            serve[line["worker"]] = line["pid"]
        return {worker: pid for worker, pid in serve.items() if alive(pid)}

    def warm(self, seconds: float = 30) -> None:
        """Waits for the process that will take a dead worker's place: until it has started, and rests."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until = time.monotonic() + seconds
        used = ""
        while True:
            spare = [pid for pid in children.read_text().split() if int(pid) not in self.pids().values()]
            now = " ".join(Path(f"/proc/{spare[0]}/stat").read_text().split()[13:15]) if spare else ""
            if now and now == used:
                return
            used = now
            assert time.monotonic() < until, "no process is warm"
            time.sleep(0.5)

    def hup(self, seconds: float = 10) -> dict[str, Any]:
        """SIGHUP; what every worker, or the one that refused, said of it."""
        assert self.process is not None
        taken, failed = len(self.said("reloaded")), len(self.said("reload_failed"))
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if len(found := self.said("reload_failed")) > failed or (
                len(found := self.said("reloaded")) >= taken + self.workers
            ):
                return found[-1]
            time.sleep(0.02)
        raise AssertionError(f"no word of a reload: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL: no chance to write anything."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """The polite end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Gateway:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """A GET by hand."""
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """A POST of JSON (or of bytes as they are) by hand."""
        return self.send("POST", path, body, headers)

    def send(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            line.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            got = line.getresponse()
            return Answer(got.status, dict(got.getheaders()), got.read())
        finally:
            line.close()

    def items(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            joined = "&" if "?" in path else "?"
            page = self.get(f"{path}{joined}limit=1000{cursor}").json()
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def run(self, run_id: str) -> dict[str, Any]:
        """A run as /api tells it."""
        found: dict[str, Any] = self.get(f"/api/runs/{run_id}").json()
        return found

    def quiet(self, run_id: str, seconds: float = 10) -> dict[str, Any]:
        """The run once nothing is held any more."""
        until = time.monotonic() + seconds
        while True:
            run = self.run(run_id)
            if nusd(run["held_usd"]) == 0 or time.monotonic() > until:
                return run
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Does the process run? A dead child that nobody has waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


async def fetch(
    port: int, path: str, body: Any, headers: Mapping[str, str] | None = None, leave_after: int | None = None
) -> Answer:
    """One POST on a raw connection, many of them side by side; `leave_after` bytes of body the client hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(data)}", "connection: close"]
        lines += ["content-type: application/json", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        named = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        got = b""
        while leave_after is None or len(got) < leave_after:
            part = await reader.read(65536)
            if not part:
                break
            got += part
        plain = dechunk(got) if named.get("transfer-encoding") == "chunked" else got
        return Answer(int(head[0].split()[1]), named, plain)
    finally:
        writer.transport.abort()


def dechunk(data: bytes) -> bytes:
    """The body of the chunked transfer coding; what is incomplete stays as far as it came."""
    out = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if length == 0:
            break
        out += rest[:length]
        data = rest[length + 2 :]
    return out
