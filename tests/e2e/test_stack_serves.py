"""The stack's own gateway file, lived: its ports, its health check, and who gets in with which credentials."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dashboards.pages import FOLDER
from tests.e2e.observing import until
from tests.play import ROOT, free_port

TOKEN = "t" * 64


class Served:
    """A gateway with the stack's configuration, but for its ports and its ledger's place."""

    def __init__(self, folder: Path) -> None:
        self.port, self.admin = free_port(), free_port()
        text = (FOLDER / "stack" / "meterbox.toml").read_text(encoding="utf-8")
        text = text.replace("/var/lib/meterbox/ledger.db", str(folder / "ledger.db"))
        text = text.replace("[server]\n", f"[server]\nport = {self.port}\nadmin_port = {self.admin}\n", 1)
        (folder / "meterbox.toml").write_text(text)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("METERBOX_")}
        self.env |= {"METERBOX_ADMIN_TOKEN": TOKEN, "XDG_STATE_HOME": str(folder)}
        with (folder / "gateway.log").open("wb") as log:
            words = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "meterbox.toml")]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=ROOT, env=self.env)
        until(lambda: self.status("/readyz") == 200, "the gateway is ready")

    def status(self, path: str, token: str | None = None, port: int | None = None) -> int:
        """What a GET is answered; 0: nobody listens."""
        line = http.client.HTTPConnection("127.0.0.1", port or self.admin, timeout=10)
        try:
            # the name under which the stack's other services know it
            headers = {"Host": f"gateway:{self.admin}"} | ({"Authorization": f"Bearer {token}"} if token else {})
            line.request("GET", path, headers=headers)
            return line.getresponse().status
        except OSError:
            return 0
        finally:
            line.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Started once."""
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(20)


def test_the_control_plane_is_apart_and_locked(served: Served) -> None:
    """`/api` and `/metrics` answer on their own port, under the stack's name, to the token only."""
    until(lambda: served.status("/metrics", TOKEN) == 200, "the first figures", 30)
    for path in ("/api/runs", "/metrics"):
        assert (401, 200) == (served.status(path), served.status(path, TOKEN)), path
        assert 200 != served.status(path, TOKEN, served.port), path
    assert 200 == served.status("/livez")


def test_the_health_checks_say_so(served: Served) -> None:
    """Compose's and the image's own commands succeed here, and fail where nobody listens."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    words = compose["services"]["gateway"]["healthcheck"]["test"][1:]
    for port, expected in ((served.admin, 0), (free_port(), 1)):
        asked = [sys.executable, "-c", words[2].replace("8788", str(port))]
        assert expected == subprocess.run(asked, capture_output=True, timeout=30, check=False).returncode
    last = (ROOT / "Dockerfile").read_text(encoding="utf-8").split('CMD ["python", "-c", "', 1)[1].split('"]', 1)[0]
    env = {**os.environ, "METERBOX_READY": f"http://127.0.0.1:{served.admin}/readyz"}
    assert 0 == subprocess.run([sys.executable, "-c", last], env=env, timeout=30, check=False).returncode


def test_what_prometheus_and_grafana_are_told_works(served: Served) -> None:
    """The bearer of prometheus.yml and of the datasource is what this gateway takes."""
    job = yaml.safe_load((FOLDER / "stack" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]
    assert "/run/secrets/admin_token" == job["authorization"]["credentials_file"]  # `folders` puts it there
    given = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "meterbox.yaml").read_text(encoding="utf-8"))
    (api,) = [one for one in given["datasources"] if one["uid"] == "meterbox-api"]
    assert ("bearerToken", "$METERBOX_ADMIN_TOKEN") == (
        api["jsonData"]["auth_method"],
        api["secureJsonData"]["bearerToken"],
    )
    assert job["static_configs"][0]["targets"] == [api["url"].removeprefix("http://")]
    request = urllib.request.Request(
        f"http://127.0.0.1:{served.admin}/metrics",
        headers={"Authorization": f"Bearer {TOKEN}", "Accept": "application/openmetrics-text;version=1.0.0"},
    )
    until(lambda: served.status("/metrics", TOKEN) == 200, "the first figures", 30)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.read().endswith(b"# EOF\n")
