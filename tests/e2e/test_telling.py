"""The projections beside a real gateway: /metrics, a backend on loopback, kills, reloads, one worker and several."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.demo.provider import ScriptedProvider
from tests.e2e.spending import call, chat
from tests.play import Gateway, alive, free_port, nusd

TOKEN = "0123456789abcdef0123456789abcdef"


class Backend:
    """Takes spans by OTLP over HTTP; what it was sent is kept. `broken`: it answers 503."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.broken = False
        backend = self

        class Take(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                status = 503 if backend.broken else 200
                if status == 200:
                    backend.take(raw, dict(self.headers.items()))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, raw: bytes, headers: dict[str, str]) -> None:
        request = ExportTraceServiceRequest.FromString(raw)
        self.headers.append({name.lower(): value for name, value in headers.items()})
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [f"{span.name} {span.span_id.hex()}" for span in scope.spans]

    def chats(self) -> set[str]:
        return {span for span in self.spans if span.startswith("chat ")}


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.server.shutdown()
    made.server.server_close()


def config(provider: ScriptedProvider, backend: Backend, name: str = "lab") -> str:
    """A provider, a budget, a backend."""
    return (
        f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n'
        '[[budgets]]\nname = "per-run"\nscope = "run"\nusd = "10"\n'
        f'[projections.otlp.destinations.{name}]\nendpoint = "{backend.url}"\ncompression = "none"\n'
        'headers = { x-secret = "canary-never-logged" }\n'
    )


def started(gateway: Gateway, times: int = 1) -> int:
    """The process of the projections that was started last."""
    pid: int = gateway.says("projections_started", times, 30)[-1]["pid"]
    return pid


async def until(true: Callable[[], object], seconds: float = 20) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.05)


def counted(gateway: Gateway) -> tuple[int, int]:
    """Calls and nano-dollars, by /metrics, as a parser that nobody here wrote reads them."""
    answer = gateway.get("/metrics")
    if answer.status != 200:
        return 0, 0
    calls, cost = 0, 0
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            if sample.name == "meterbox_requests_total":
                calls += int(sample.value)
            if sample.name == "meterbox_cost_usd_total":
                cost += round(sample.value * 10**9)
    return calls, cost


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_was_spent_is_told_over_kills_and_reloads(
    tmp_path: Path, provider: ScriptedProvider, backend: Backend, workers: int
) -> None:
    """kill -9 of the projections amid calls, a backend that is down, and SIGHUP: counts and spans end up whole."""
    with Gateway(tmp_path, config(provider, backend), workers=workers) as gateway:
        first = started(gateway)
        backend.broken = True
        for number in range(6):
            await call(gateway, f"r{number}", chat())
        await until(lambda: gateway.said("projection_failed"))
        os.kill(first, signal.SIGKILL)
        for number in range(6):
            await call(gateway, f"r{number}", chat())
        second = started(gateway, 2)
        assert second != first and not alive(first)
        assert [first] == [line["pid"] for line in gateway.said("projections_died")]
        backend.broken = False
        await until(lambda: 12 == len(backend.chats()), 60)
        spent = sum(nusd(gateway.get(f"/api/runs/r{number}").json()["own_spent_usd"]) for number in range(6))
        await until(lambda: (12, spent) == counted(gateway))
        assert spent == provider.bill_nusd()

        gateway.write(config(provider, backend, "other"))
        gateway.hup()
        third = started(gateway, 3)
        await until(partial(gone, second))
        assert "metrics, alerts, otlp-other" == gateway.said("projections_started")[-1]["projections"]
        await until(lambda: (12, spent) == counted(gateway))
        assert 12 == len(backend.chats())  # another name is another cursor: all of it again, with the same ids
        assert all("canary-never-logged" == headers["x-secret"] for headers in backend.headers)
    await until(partial(gone, third), 5)
    assert "canary-never-logged" not in gateway.log.read_text()


def gone(pid: int) -> bool:
    return not alive(pid)


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_ends_with_a_gateway_that_is_killed(
    tmp_path: Path, provider: ScriptedProvider, backend: Backend, workers: int
) -> None:
    """SIGKILL of whoever supervises: no process is left, and the next start goes on where it stopped."""
    gateway = Gateway(tmp_path, config(provider, backend), workers=workers)
    with gateway:
        await call(gateway, "r", chat())
        pid = started(gateway)
        await until(lambda: 1 == len(backend.chats()))
        gateway.kill()
        await until(partial(gone, pid), 5)
    with gateway:
        await call(gateway, "r", chat())
        await until(lambda: 2 == len(backend.chats()) and 2 == counted(gateway)[0])
    assert 2 == len([span for span in backend.spans if span.startswith("chat ")])


async def test_what_is_settled_last_is_told_before_the_end(
    tmp_path: Path, provider: ScriptedProvider, backend: Backend
) -> None:
    """A polite stop, told to every process at once as a service manager does: the last call's span is sent."""
    with Gateway(tmp_path, config(provider, backend)) as gateway:
        os.kill(started(gateway), signal.SIGTERM)
        await call(gateway, "r", chat())
    assert 1 == len(backend.chats()) and [] == gateway.said("projections_died")


async def test_metrics_have_a_door(tmp_path: Path, provider: ScriptedProvider, backend: Backend) -> None:
    """On a listener of its own, with the token; on the data plane's port there is nothing then."""
    port = free_port()
    server = f'admin_port = {port}\nadmin_token = "{TOKEN}"\n'
    gateway = Gateway(tmp_path, config(provider, backend), server=server)
    data, gateway.port = gateway.port, port  # health, too, is asked for on the control plane's listener
    with gateway:
        started(gateway)
        assert 401 == gateway.get("/metrics").status
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        await until(lambda: 200 == gateway.get("/metrics", bearer).status)
        page = gateway.get("/metrics", bearer)
        assert page.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert page.body.endswith(b"# EOF\n")
        gateway.port = data
        assert 404 == gateway.get("/metrics", bearer).status


async def test_switched_off_there_is_no_process(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Nothing to tell: nothing is started, and /metrics says why."""
    off = "[projections.metrics]\nenabled = false\n[projections.alerts]\nenabled = false\n"
    text = f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n{off}'
    with Gateway(tmp_path, text) as gateway:
        await call(gateway, "r", chat())
        page = gateway.get("/metrics")
        assert 503 == page.status and "enabled = false" in page.json()["error"]["message"]
    assert [] == gateway.said("projections_started") and not (gateway.ledger.parent / "projections").exists()
