"""A real gateway for the demo: a `serve` process of its own on a free port, with its state in a temporary folder.

Invariant: nothing of the user's is read or written (configuration, state, METERBOX_ variables, proxies), and nothing
outlives the demo: the process group is ended with it. What never enters: how the gateway works; it is met over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

_READY_S = 20.0


class House:
    """Start it, kill it, start it again: same port, same ledger."""

    def __init__(self, folder: Path, provider_origin: str, limit_usd: str) -> None:
        self._folder = folder
        self._port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.origin = f"http://127.0.0.1:{self._port}"
        (folder / "meterbox.toml").write_text(
            f'[server]\nport = {self._port}\n\n[providers.scripted]\nbase_url = "{provider_origin}"\n\n'
            f'[[budgets]]\nname = "per-run"\nscope = "run"\nusd = "{limit_usd}"\n\n'
            f"[stores.sqlite]\npath = {json.dumps(str(folder / 'ledger.sqlite3'))}\n",
            encoding="utf-8",
        )

    async def start(self, http: aiohttp.ClientSession) -> None:
        """Returns once calls are served. Raises RuntimeError with the gateway's last words."""
        process = self._spawn()
        async with asyncio.timeout(_READY_S):
            while not await self._ready(http):
                if process.poll() is not None:
                    raise RuntimeError(f"the gateway did not start:\n{self.last_words()}")
                await asyncio.sleep(0.02)

    def _spawn(self) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("METERBOX_")}
        environ = {**kept, "XDG_STATE_HOME": str(self._folder), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self._folder / "meterbox.toml")]
        with (self._folder / "serve.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )
        self._processes.append(process)
        return process

    async def _ready(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.origin}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def kill(self) -> None:
        """SIGKILL: no chance to write anything."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    async def stop(self) -> None:
        """Ends every process that was started, and whatever they started."""
        for process in self._processes:
            await asyncio.to_thread(_end, process)
        self._processes.clear()

    async def api(self, http: aiohttp.ClientSession, path: str) -> dict[str, Any]:
        """What the control plane says."""
        async with http.get(f"{self.origin}/api{path}") as answer:
            answer.raise_for_status()
            said: dict[str, Any] = await answer.json()
            return said

    def last_words(self) -> str:
        """The end of the gateway's own output."""
        log = self._folder / "serve.log"
        return log.read_text(encoding="utf-8", errors="replace")[-2_000:] if log.exists() else ""

    def complaints(self, most: int = 5) -> list[str]:
        """The first lines of its log that are no mere news."""
        log = self._folder / "serve.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        return [line for line in lines if line.startswith("{") and '"level":"info"' not in line][:most]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what a SIGKILL of its parent left behind


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
