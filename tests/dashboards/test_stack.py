"""Claims about the stack: Compose, image and settings are what their programs take, and as locked up as they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.config import load
from tests.dashboards.pages import FOLDER, INFINITY, PROMETHEUS, pages
from tests.play import ROOT

STACK = FOLDER / "stack"
Loopback = Annotated[str, StringConstraints(pattern=r"^127\.0\.0\.1:\d+:\d+$")]
Mount = Annotated[str, StringConstraints(pattern=r"^(\./[\w./-]+:/[\w./-]+:ro|[a-z]+:/[\w./-]+(:ro)?)$")]
Pinned = Annotated[str, StringConstraints(pattern=r"^[\w./-]+:v?\d+\.\d+\.\d+(-\w+)?$")]
Seconds = Annotated[str, StringConstraints(pattern=r"^\d+s$")]


class Strict(BaseModel):
    """A part of the Compose file: what is not named is an error, so that a mistyped key can't be overlooked."""

    model_config = ConfigDict(extra="forbid")


class Health(Strict):
    """`healthcheck`."""

    disable: bool = False
    test: list[str] = []
    interval: Seconds = "10s"
    timeout: Seconds = "3s"
    retries: int = 3
    start_period: Seconds = "0s"


class After(Strict):
    """One of `depends_on`."""

    condition: Literal["service_healthy", "service_completed_successfully"]


class Build(Strict):
    """`build`."""

    context: Literal["."]


class Log(Strict):
    """`logging`."""

    driver: str
    options: dict[str, str]


class Service(Strict):
    """One service, as the Compose specification spells what we use of it."""

    image: Pinned
    user: str
    read_only: Literal[True]
    cap_drop: list[str]
    cap_add: list[str] = []
    security_opt: list[str]
    build: Build | None = None
    restart: Literal["unless-stopped"] | None = None
    command: list[str] = []
    environment: dict[str, str] = {}
    ports: list[Loopback] = []
    volumes: list[Mount] = []
    tmpfs: list[str] = []
    profiles: list[str] = []
    network_mode: Literal["none"] | None = None
    logging: Log | None = None
    stop_grace_period: Seconds = "10s"
    healthcheck: Health | None = None
    depends_on: dict[str, After] = {}


class Compose(Strict):
    """The whole file."""

    common: dict[str, Any] = Field(alias="x-common")
    services: dict[str, Service]
    volumes: dict[str, dict[str, str]]


def compose() -> Compose:
    """docker-compose.yml, checked."""
    return Compose.model_validate(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))


def test_compose_is_what_its_specification_knows() -> None:
    """Every key is one that we know, every image pinned, every port on loopback, every name defined."""
    file = compose()
    assert {"gateway", "redis", "otel-collector", "tempo", "prometheus", "alertmanager", "grafana"} <= set(
        file.services
    )
    for name, service in file.services.items():
        for mount in service.volumes:
            source = mount.split(":")[0]
            known = source in file.volumes if not source.startswith(".") else (ROOT / source).exists()
            assert known, f"{name}: {mount}"
        assert set(service.depends_on) <= set(file.services)
        for other, after in service.depends_on.items():
            health = file.services[other].healthcheck
            assert after.condition != "service_healthy" or (health is not None and health.test), (
                f"{name} waits: {other}"
            )
    assert set(file.volumes) == {
        mount.split(":")[0] for service in file.services.values() for mount in service.volumes if mount[0] != "."
    }


def test_nothing_runs_with_more_than_it_needs() -> None:
    """Not root, no capability, no way to gain one, a root that can't be written (R-158)."""
    for name, service in compose().services.items():
        assert ["ALL"] == service.cap_drop and ["no-new-privileges:true"] == service.security_opt, name
        if name == "folders":  # gives one new volume to its owner, without a network, and ends
            assert (["CHOWN"], "none") == (service.cap_add, service.network_mode)
        else:
            assert not service.cap_add and int(service.user.split(":")[0]) > 0, name
            assert service.restart == "unless-stopped" and service.logging is not None, name
            # the collector's image holds one program: nothing in it could ask
            assert service.healthcheck is not None and (service.healthcheck.test or name == "otel-collector"), name


def test_folders_hand_the_token_to_prometheus_alone(tmp_path: Path) -> None:
    """What `folders` runs, run here: the token in a file of its reader's own, again at the next start."""
    file = compose()
    script = file.services["folders"].command[2].replace("$$", "$").replace("chown", "echo")
    for folder in ("queue", "secrets"):
        (tmp_path / folder).mkdir()
        script = script.replace(f"/{folder}", f"{tmp_path}/{folder}")
    for token in ("a" * 40, "b" * 40):
        subprocess.run(["sh", "-ec", script], env={"METERBOX_ADMIN_TOKEN": token}, check=True, capture_output=True)
        made = tmp_path / "secrets" / "admin_token"
        assert (token, 0o600) == (made.read_text(), made.stat().st_mode & 0o777)
    assert "chown 65534:65534 /secrets/admin_token" in file.services["folders"].command[2]
    assert "65534:65534" == file.services["prometheus"].user
    holders = {name for name, one in file.services.items() if any(m.startswith("secrets:") for m in one.volumes)}
    assert {"folders", "prometheus"} == holders and "secrets:/run/secrets:ro" in file.services["prometheus"].volumes


def test_no_secret_has_a_default() -> None:
    """Compose stops with a sentence where a secret is missing (security.md)."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    variables = re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", text)
    needed = {name for name, rest in variables if rest.startswith(":?")}
    assert {"METERBOX_ADMIN_TOKEN", "GRAFANA_PASSWORD"} == needed
    chosen = {name: rest for name, rest in variables if name not in needed}
    assert ":-" == chosen.pop("BACKEND_AUTHORIZATION")
    assert {"BACKEND": ":-debug", "BACKEND_ENDPOINT": ":-http://localhost:4319"} == chosen


def test_the_collector_is_told_where_its_file_looks() -> None:
    """Every variable that Compose gives it is one that otel-collector.yaml reads, and its queue lies on a volume."""
    collector = compose().services["otel-collector"]
    text = (ROOT / "otel-collector.yaml").read_text(encoding="utf-8")
    read = dict(re.findall(r"\$\{env:(\w+):-([^}]*)\}", text))
    assert set(collector.environment) <= set(read)
    assert f"queue:{read['OTELCOL_QUEUE']}" in collector.volumes
    asked = {read[f"OTELCOL_{name}_PORT"] for name in ("GRPC", "HTTP", "HEALTH")}
    assert asked == {port.rsplit(":", 1)[1] for port in collector.ports}
    told = load(STACK / "meterbox.toml", {"METERBOX_ADMIN_TOKEN": "x" * 64}).telling().destinations
    assert ["http://otel-collector:4318"] == [one.endpoint.removesuffix("/v1/traces") for one in told]


def test_the_image_is_small_and_nobodys() -> None:
    """Two stages of a pinned base, a user without rights, a health check, writes only below one folder."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert 2 == len(bases) and len(set(bases)) == 1 and re.search(r":\d+\.\d+\.\d+-slim$", bases[0])
    last = text.rsplit("FROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE) and "HEALTHCHECK" in last
    assert "pip" not in last and ["/var/lib/meterbox"] == re.findall(r"^VOLUME (\S+)$", last, re.MULTILINE)
    works = re.findall(r"^WORKDIR (\S+)$", last, re.MULTILINE)
    assert [f"{works[-1]}/meterbox.toml"] == re.findall(r"/\S+\.toml", last)  # `exec gateway meterbox VERB` finds it
    for source in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
            assert f"!{name.removeprefix('./')}" in (ROOT / ".dockerignore").read_text(encoding="utf-8")


def test_the_gateway_takes_its_file() -> None:
    """dashboards/stack/meterbox.toml starts a gateway: keys off, but a token on the control plane."""
    settings = load(STACK / "meterbox.toml", {"METERBOX_ADMIN_TOKEN": "x" * 64})
    assert "/var/lib/meterbox/ledger.db" == str(settings.stores.sqlite.path)


@pytest.mark.server
def test_prometheus_takes_its_file(tmp_path: Path) -> None:
    """`promtool check config`, with the places inside of the container put where they are here."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    text = (STACK / "prometheus.yml").read_text(encoding="utf-8")
    for inside, here in (
        (r"/etc/prometheus/rules", FOLDER / "rules"),
        ("/run/secrets/admin_token", tmp_path / "token"),
    ):
        assert inside in text
        text = text.replace(inside, str(here))
    (tmp_path / "token").write_text("x" * 64)
    (tmp_path / "prometheus.yml").write_text(text)
    asked = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode and "2 rule files found" in done.stdout, done.stdout + done.stderr


@pytest.mark.server
def test_alertmanager_takes_its_file() -> None:
    """`amtool check-config`, and a critical alert reaches people at once."""
    if shutil.which("amtool") is None:
        pytest.skip("amtool is missing: apt-get install prometheus-alertmanager")
    file = str(STACK / "alertmanager.yml")
    done = subprocess.run(["amtool", "check-config", file], capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    asked = [
        "amtool",
        "config",
        "routes",
        "test",
        f"--config.file={file}",
        "severity=critical",
        "alertname=MeterboxDown",
    ]
    routed = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert "people" == routed.stdout.strip(), routed.stdout + routed.stderr


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("docker-compose", ["-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"]),
        ("tempo", [f"-config.file={STACK / 'tempo.yaml'}", "-config.verify"]),
    ],
)
def test_each_program_takes_its_own_file(program: str, words: list[str]) -> None:
    """Compose and Tempo by their own check, where they are; elsewhere said to be skipped, and checked as above."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing")
    env = {**os.environ, "METERBOX_ADMIN_TOKEN": "x" * 64, "GRAFANA_PASSWORD": "x"}
    done = subprocess.run([program, *words], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_grafana_is_given_what_the_pages_ask_for() -> None:
    """A datasource of each type that a page's variable asks for, exemplars that lead to traces, the pages' folder."""
    given = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "meterbox.yaml").read_text(encoding="utf-8"))
    types = {source["type"]: source for source in given["datasources"]}
    asked = {
        variable["query"]
        for page in pages().values()
        for variable in page["templating"]["list"]
        if variable["type"] == "datasource"
    }
    assert {PROMETHEUS, "tempo", INFINITY} == asked == set(types)
    (exemplar,) = types[PROMETHEUS]["jsonData"]["exemplarTraceIdDestinations"]
    assert ("trace_id", types["tempo"]["uid"]) == (exemplar["name"], exemplar["datasourceUid"])
    assert types[INFINITY]["url"] in types[INFINITY]["jsonData"]["allowedHosts"]
    folder = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "meterbox.yaml").read_text(encoding="utf-8"))
    inside = folder["providers"][0]["options"]["path"]
    assert f"./dashboards:{inside}:ro" in compose().services["grafana"].volumes
    ports = dict(re.findall(r"http://([\w-]+):(\d+)", str(given)))
    assert {"prometheus": "9090", "tempo": "3200", "gateway": "8788"} == ports
