"""Real Prometheus and Alertmanager on loopback, and receivers of what is sent out: spans, alerts.

Invariant: everything listens on a free port, writes into a folder of the test's own, and is gone after it.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import yaml

from tests.dashboards.pages import FOLDER
from tests.play import free_port


def until(said: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """What was said once it is true."""
    end = time.monotonic() + seconds
    while not (found := said()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return found


class Receiver:
    """Takes every POST and answers with one status; `bodies` has what came."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[bytes] = []
        receiver = self

        class Taking(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Daemon:
    """A program that answers on a port once it is ready."""

    def __init__(self, folder: Path, name: str, words: list[str], port: int) -> None:
        self.port = port
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([name, *words], stdout=log, stderr=log, cwd=folder)
        until(self._ready, f"{name} is ready")

    def _ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-2000:]
        try:
            return self.get("/-/ready")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            line.request("GET", path)
            answer = line.getresponse()
            return answer.status, answer.read()
        finally:
            line.close()

    def stop(self) -> None:
        """The polite end."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Alertmanager(Daemon):
    """With the committed configuration, its people reached by a webhook."""

    def __init__(self, folder: Path, hook: str) -> None:
        told = yaml.safe_load((FOLDER / "stack" / "alertmanager.yml").read_text(encoding="utf-8"))
        told["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        told["receivers"] = [{"name": "people", "webhook_configs": [{"url": hook}]}]
        file = folder / "alertmanager.yml"
        file.write_text(yaml.safe_dump(told))
        port = free_port()
        words = [f"--config.file={file}", f"--storage.path={folder / 'am'}", f"--web.listen-address=127.0.0.1:{port}"]
        super().__init__(folder, "prometheus-alertmanager", [*words, "--cluster.listen-address="], port)

    def alerts(self) -> dict[str, dict[str, Any]]:
        """What it has, by alertname."""
        return {alert["labels"]["alertname"]: alert for alert in json.loads(self.get("/api/v2/alerts")[1])}


class Prometheus(Daemon):
    """Scrapes a gateway every second and evaluates the committed rules as often."""

    def __init__(self, folder: Path, gateway: int, alertmanager: int) -> None:
        told = yaml.safe_load((FOLDER / "stack" / "prometheus.yml").read_text(encoding="utf-8"))
        told["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        told["rule_files"] = [str(folder / "rules" / "*.yaml")]
        (job,) = told["scrape_configs"]
        del job["authorization"]  # loopback
        job["static_configs"] = [{"targets": [f"127.0.0.1:{gateway}"]}]
        told["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(told))
        (folder / "rules").mkdir()
        for path in (FOLDER / "rules").glob("*.yaml"):
            text = path.read_text(encoding="utf-8").replace("    interval: 15s\n", "    interval: 1s\n")
            (folder / "rules" / path.name).write_text(text)
        port = free_port()
        words = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", "--log.level=warn"]
        words += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"]
        super().__init__(folder, "prometheus", words, port)

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        status, body = self.get(f"/api/v1/{path}?{urlencode(query, quote_via=quote)}")
        told = json.loads(body)
        assert "success" == told["status"], f"{query}: {status} {told}"
        return told["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        found = self.ask("query", query=expression)
        assert "vector" == found["resultType"], expression
        series: list[dict[str, Any]] = found["result"]
        return series

    def sum(self, expression: str) -> float:
        """The sum over its series; 0 for none."""
        return sum(float(one["value"][1]) for one in self.query(expression))


def missing() -> str:
    """Why these can't run here; nothing: they can."""
    for program, package in (("prometheus", "prometheus"), ("prometheus-alertmanager", "prometheus-alertmanager")):
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install {package}"
    return ""
