"""The real OpenTelemetry Collector runs `otel-collector.yaml`: passes everything on, and loses nothing to a SIGKILL.

It is built from Go modules: at once where METERBOX_TEST_BACKENDS=1 asks for it (two minutes), else used where it is.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.core.errors import UpstreamFailed
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import Destination
from gateway.projections.otlp import Around, OtlpProjection
from gateway.stores.notebook import SqliteNotebook
from tests.core.telemetry.spans.spanning import FULL, SECTIONS, World, asks, brings
from tests.otlp import OtlpServer
from tests.play import ROOT, SHARED

BUILD_S = 1_500
FOLDER = ROOT / "build/collector"

pytestmark = [pytest.mark.shared, pytest.mark.timeout(BUILD_S + 300)]


@pytest.fixture(scope="module")
def otelcol() -> Path:
    """The binary; skips aloud where it can't be had."""
    found, build = FOLDER / "otelcol", SHARED / "collector/build.sh"
    if os.environ.get("METERBOX_TEST_BACKENDS") == "1":
        if shutil.which("go") is None and not found.exists():
            pytest.skip("go is missing: the collector can't be built")
        if not build.exists():
            pytest.skip("../shared is missing: no manifest of the collector")
        subprocess.run(["sh", str(build), str(FOLDER)], check=True, timeout=BUILD_S, capture_output=True)
    if not found.exists():
        why = "go is missing" if shutil.which("go") is None else "it takes minutes: METERBOX_TEST_BACKENDS=1 builds it"
        pytest.skip(f"{why}: there is no collector")
    return found


_numbers = itertools.count(20_000 + os.getpid() % 8_000)


def port() -> int:
    """A free one below those that clients get, never the same twice."""
    for number in _numbers:
        assert number < 32_000, "no free ports"
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
        return number
    raise AssertionError("no free ports")


def until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Collector:
    """The process, with our configuration and nothing else."""

    def __init__(self, binary: Path, folder: Path, **environment: str) -> None:
        self.http, grpc, self.health = port(), port(), port()
        self.log = folder / "otelcol.log"
        self._binary = binary
        self._environment = {
            "PATH": os.environ["PATH"], "OTELCOL_HTTP_PORT": str(self.http), "OTELCOL_GRPC_PORT": str(grpc),
            "OTELCOL_HEALTH_PORT": str(self.health), "OTELCOL_QUEUE": str(folder / "queue"), **environment,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until its health check says that it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self._binary), "--config", str(ROOT / "otel-collector.yaml")],
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        until(self.healthy, f"the collector serves: {self.log.read_text()[-2000:]}")

    def healthy(self) -> bool:
        """Does it answer 200?"""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: no chance to write anything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[World, Callable[[str], OtlpProjection]]]:
    """A ledger, and its projection to a destination."""
    world, opened = World(), []

    def to(url: str) -> OtlpProjection:
        notebook = SqliteNotebook(tmp_path / "otlp-d.sqlite3")
        around = Around(lambda: 0.0, Health(), sections=SECTIONS)
        one = OtlpProjection(Destination("d", url, logs=True), world.store.reading(), notebook, around)
        opened.append((one, notebook))
        return one

    yield world, to
    for one, notebook in opened:
        one.close()
        notebook.close()


async def runs(world: World, count: int) -> None:
    """Runs of two calls and a tool each, with a finding."""
    for n in range(count):
        await world.call(f"{n}a", run=f"R{n}", **{**FULL, **asks(("t", "search"))})
        await world.call(f"{n}b", run=f"R{n}", **brings("t"))
        await world.end(f"R{n}", "ended", None, None)


def drive(world: World, projection: OtlpProjection) -> None:
    """Everything, as the driver would: again where nobody takes it."""
    end = time.monotonic() + 60
    while entries := world.store.reading().entries(projection.cursor, limit=50):
        assert time.monotonic() < end
        try:
            projection.apply(entries)
        except UpstreamFailed:
            time.sleep(0.1)


async def test_spans_and_records_pass_through_unchanged(otelcol, tmp_path, told):
    """To Tempo's place and to another backend: each once, with all that we said, and nothing that was derived."""
    world, to = told
    await runs(world, 20)
    with OtlpServer(port()) as direct, OtlpServer(port()) as tempo, OtlpServer(port()) as other:
        drive(world, to(direct.url))
        (tmp_path / "otlp-d.sqlite3").unlink()
        collector = Collector(
            otelcol, tmp_path, TEMPO_ENDPOINT=tempo.url, BACKEND="otlp_http/backend", BACKEND_ENDPOINT=other.url,
            BACKEND_AUTHORIZATION="Basic c2VjcmV0",
        )  # fmt: skip
        collector.start()
        try:
            drive(world, to(f"http://127.0.0.1:{collector.http}"))
            for server in (tempo, other):
                until(lambda: len(server.spans) == len(direct.spans), f"{len(server.spans)} spans")  # noqa: B023  at once
            until(lambda: len(other.records) == len(direct.records) == 20, f"{len(other.records)} records")
        finally:
            collector.kill()
    assert 20 * 6 == len(direct.spans)
    for server in (tempo, other):
        assert {1} == set(server.times.values())
        for name, span in direct.spans.items():
            assert span.SerializeToString(deterministic=True) == server.spans[name].SerializeToString(
                deterministic=True
            )
    assert {"/v1/traces"} == {path for path, _, _ in tempo.requests}
    assert {"Basic c2VjcmV0"} == {named["authorization"] for _, named, _ in other.requests}
    assert {"meterbox"} == {told["service.name"] for told in tempo.resources}


async def test_a_queue_survives_a_sigkill(otelcol, tmp_path, told):
    """The backend is down, the collector takes everything, is killed, starts again: every span arrives once."""
    world, to = told
    await runs(world, 100)
    place = port()
    collector = Collector(otelcol, tmp_path, TEMPO_ENDPOINT=f"http://127.0.0.1:{place}")
    collector.start()
    try:
        drive(world, to(f"http://127.0.0.1:{collector.http}"))
        assert world.store.reading().ends()[1] == to(f"http://127.0.0.1:{collector.http}").cursor
        collector.kill()
        with OtlpServer(place) as tempo:
            collector.start()
            until(lambda: len(tempo.spans) == 600, f"{len(tempo.spans)} of 600 spans")
            assert {1} == set(tempo.times.values())
    finally:
        collector.kill()


async def test_a_collector_that_is_down_stops_the_cursor_and_nothing_else(otelcol, tmp_path, told):
    """Killed between batches: the gateway keeps its place, goes on when it is back; every id is there once."""
    world, to = told
    await runs(world, 30)
    with OtlpServer(port()) as tempo:
        collector = Collector(otelcol, tmp_path, TEMPO_ENDPOINT=tempo.url)
        collector.start()
        try:
            projection = to(f"http://127.0.0.1:{collector.http}")
            projection.apply(world.store.reading().entries(0, limit=40))
            collector.kill()
            at = projection.cursor
            with pytest.raises(UpstreamFailed):
                projection.apply(world.store.reading().entries(at, limit=40))
            assert 0 < at == projection.cursor
            collector.start()
            drive(world, projection)
            until(lambda: len(tempo.spans) == 180, f"{len(tempo.spans)} of 180 spans")
            assert world.store.reading().ends()[1] == projection.cursor
        finally:
            collector.kill()


def test_the_examples_for_other_backends_pass_the_collectors_own_check(otelcol, tmp_path):
    """R-155: each example of docs/spans.md, laid over our configuration; and the check refuses a wrong one."""
    page = (ROOT / "docs/spans.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n# (\w+\.yaml).*?\n(.*?)```", page, re.DOTALL)
    assert ["honeycomb.yaml", "datadog.yaml"] == [name for name, _ in examples]
    environment = {
        "PATH": os.environ["PATH"], "OTELCOL_QUEUE": str(tmp_path), "HONEYCOMB_API_KEY": "x", "DD_API_KEY": "x",
        "DATADOG_TRACES_ENDPOINT": "https://datadog.example.com/v1/traces",
    }  # fmt: skip
    wrong = examples[0][1].replace("sending_queue", "sending_cue")
    for name, text in [*examples, ("wrong.yaml", wrong)]:
        (tmp_path / name).write_text(text)
        files = ["--config", str(ROOT / "otel-collector.yaml"), "--config", str(tmp_path / name)]
        asked = [str(otelcol), "validate", *files]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (name == "wrong.yaml") == (done.returncode != 0), f"{name}: {done.stderr[-500:]}"


def test_the_configuration_keeps_what_it_took_and_asks_for_ever():
    """What three tests can not wait for: retries without end, a full queue that blocks, on disk; no batch
    in memory, nothing derived."""
    text = (ROOT / "otel-collector.yaml").read_text(encoding="utf-8")
    said = "\n".join(line.partition(" #")[0] for line in text.splitlines() if not line.startswith("#"))
    for line in ("max_elapsed_time: 0s", "storage: file_storage", "block_on_overflow: true", "fsync: true"):
        assert line in said
    assert 2 == said.count("retry_on_failure: ") == said.count("sending_queue: ")
    for word in ("batch", "spanmetrics", "count", "prometheus", "sampl" + "er", "transform", "connectors"):
        assert word not in said, word
