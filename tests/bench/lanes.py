"""The lanes of the bench: direct, nginx, bare aiohttp, and the product as `serve` starts it; what they burn."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
GATEWAY_CORE = (os.cpu_count() or 1) - 1

CONFIG = """
[server]
port = {port}

[providers.fast]
preset = "openai"
base_url = "http://127.0.0.1:{fast}"

[providers.slow]
preset = "openai"
base_url = "http://127.0.0.1:{slow}"

[[budgets]]
name = "bench"
scope = "run"
usd = 900000

[stores.sqlite]
path = "{state}/ledger.db"
"""

# Not in the figures of the proxy: tests/bench/telemetry.py has what it costs.
NO_TELEMETRY = "[projections.metrics]\nenabled = false\n[projections.alerts]\nenabled = false\n"

NGINX = """
worker_processes 1; daemon off; pid {state}/nginx.pid; error_log {state}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 10000000;
  client_body_temp_path {state}/body; proxy_temp_path {state}/proxy; fastcgi_temp_path {state}/f;
  uwsgi_temp_path {state}/u; scgi_temp_path {state}/s;
  upstream fast {{ server 127.0.0.1:{fast}; keepalive 256; keepalive_requests 10000000; }}
  upstream slow {{ server 127.0.0.1:{slow}; keepalive 256; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_request_buffering off;
    location /fast/ {{ proxy_pass http://fast/; }}
    location /slow/ {{ proxy_pass http://slow/; }}
  }}
}}
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process tree, in seconds."""
    total = 0
    for one in tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def rss_kb(pid: int) -> int:
    """Resident memory of a process tree, in KiB."""
    total = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def wait_port(port: int, process: subprocess.Popen[bytes]) -> float:
    """Seconds until somebody accepts on the port."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < 15:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode} before it was ready")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return time.perf_counter() - begun
        time.sleep(0.01)
    raise RuntimeError("not ready within 15 s")


@contextmanager
def process(command: list[str], core: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process bound to one core, ended with the block."""
    with log.open("ab") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out)
    os.sched_setaffinity(started.pid, {core})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGCONT)
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


class Lane:
    """One way from the load to the provider. `pid` None: no process in between."""

    def __init__(
        self, name: str, port: dict[str, int], prefix: dict[str, str], pid: int | None, ready_s: float
    ) -> None:
        self.name = name
        self.port = port
        self.prefix = prefix
        self.pid = pid
        self.ready_s = ready_s

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        return cpu_s(self.pid) if self.pid is not None else 0.0

    def rss_kb(self) -> int:
        """Resident KiB now."""
        return rss_kb(self.pid) if self.pid is not None else 0


@contextmanager
def lanes(state: Path) -> Iterator[list[Lane]]:
    """All lanes on two providers: one answers at once, one after 20 ms."""
    with ExitStack() as stack:
        provider = Path(__file__).with_name("wire.py")
        port = {"fast": free_port(), "slow": free_port()}
        for name, delay in (("fast", "0"), ("slow", "0.02")):
            started = stack.enter_context(
                process([sys.executable, str(provider), str(port[name]), delay], 0, state / "provider.log")
            )
            wait_port(port[name], started)
        found = [Lane("direct", port, {"fast": "", "slow": ""}, None, 0.0)]
        through = {"fast": "/fast", "slow": "/slow"}
        values = {"fast": port["fast"], "slow": port["slow"], "state": str(state)}
        if shutil.which("nginx"):
            own = free_port()
            (state / "nginx.conf").write_text(NGINX.format(port=own, **values))
            command = ["nginx", "-c", str(state / "nginx.conf"), "-p", str(state)]
            started = stack.enter_context(process(command, GATEWAY_CORE, state / "nginx.out"))
            ready = wait_port(own, started)
            found.append(Lane("nginx", dict.fromkeys(port, own), through, started.pid, ready))
        own = free_port()
        floor = Path(__file__).with_name("floor.py")
        origins = [f"{name}=http://127.0.0.1:{port[name]}" for name in port]
        command = [sys.executable, str(floor), str(own), *origins]
        started = stack.enter_context(process(command, GATEWAY_CORE, state / "floor.log"))
        ready = wait_port(own, started)
        found.append(Lane("aiohttp", dict.fromkeys(port, own), through, started.pid, ready))
        own = free_port()
        (state / "meterbox.toml").write_text(CONFIG.format(port=own, **values) + NO_TELEMETRY)
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(state / "meterbox.toml")]
        started = stack.enter_context(process(command, GATEWAY_CORE, state / "meterbox.log"))
        ready = wait_port(own, started)
        found.append(Lane("meterbox", dict.fromkeys(port, own), through, started.pid, ready))
        yield found
