"""Nothing lost: a collector and a channel that are down while calls flow, and an exporter that is killed later."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script
from tests.e2e.spending import chat
from tests.play import Gateway, free_port

LANES = 24
RUNS = 40
SECRET = "whsec_MfKQ9r8GKYqUgNdUaBuoDqDZkD9NXDT5"


class Taker:
    """Takes what is posted on a port, once it is opened: spans at /v1/traces, alerts elsewhere."""

    def __init__(self) -> None:
        self.port = free_port()
        self.chats: Counter[str] = Counter()
        self.alerts: Counter[tuple[str, str]] = Counter()
        self._server: ThreadingHTTPServer | None = None

    def open(self) -> None:
        taker = self

        class Take(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                raw = gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw
                taker.take(self.path, raw, self.headers.get("webhook-id", ""))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Take)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def take(self, path: str, raw: bytes, message: str) -> None:
        if path != "/v1/traces":
            labels = json.loads(raw)["alerts"][0]["labels"]
            self.alerts[f"{labels['alertname']} {labels.get('threshold')}", message] += 1
            return
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            for scope in resource.scope_spans:
                self.chats.update(span.span_id.hex() for span in scope.spans if span.name.startswith("chat "))


async def until(true: Callable[[], object], seconds: float) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.05)


async def spend(gateway: Gateway, count: int) -> list[str]:
    """So many calls over kept connections, spread over the runs; the ids of all that were answered."""
    ids: list[str] = []
    left = iter(range(count))
    body = json.dumps(chat(words=5)).encode()

    async def lane(session: aiohttp.ClientSession) -> None:
        for number in left:
            run = f"r{number % RUNS}"
            headers = {"x-meterbox-run-id": run, "authorization": f"Bearer {run}", "content-type": "application/json"}
            async with session.post(f"{gateway.url}/scripted/v1/chat/completions", data=body, headers=headers) as said:
                await said.read()
                assert 200 == said.status
                ids.append(said.headers["x-meterbox-call-id"])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=LANES)) as session:
        await asyncio.gather(*(lane(session) for _ in range(LANES)))
    return ids


def totals(gateway: Gateway) -> tuple[int, int]:
    """Calls and nano-dollars of /metrics."""
    page = gateway.get("/metrics")
    assert 200 == page.status
    sums: Counter[str] = Counter()
    for family in text_string_to_metric_families(page.body.decode()):
        for sample in family.samples:
            scale = 10**9 if sample.name == "meterbox_cost_usd_total" else 1
            sums[sample.name] += round(sample.value * scale)
    return sums["meterbox_requests_total"], sums["meterbox_cost_usd_total"]


@pytest.mark.parametrize(
    ("calls", "down_s"),
    [pytest.param(800, 3.0, id="small"), pytest.param(20_000, 60.0, id="whole", marks=pytest.mark.long)],
)
async def test_a_collector_that_is_down_loses_nothing(
    tmp_path: Path, provider: ScriptedProvider, calls: int, down_s: float
) -> None:
    """Down for a minute under load, then the exporter is killed twice: each call is one span id, each alert came."""
    taker, wanted = Taker(), {f"budget_threshold {part}" for part in ("0.5", "0.8", "1.0")}
    provider.script = Script(output_tokens=20)
    config = (
        f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n'
        '[[budgets]]\nname = "each"\nscope = "run"\nusd = "10"\n'
        '[[budgets]]\nname = "all"\nscope = "global"\nper = "month"\nusd = "0.001"\nmode = "shadow"\n'
        f'[projections.otlp.destinations.lab]\nendpoint = "http://127.0.0.1:{taker.port}"\n'
        f'[projections.alerts.channels.hook]\nurl = "http://127.0.0.1:{taker.port}/hook"\nsecret = "{SECRET}"\n'
    )
    try:
        with Gateway(tmp_path, config) as gateway:
            gateway.says("projections_started", 1, 30)
            began = time.monotonic()
            ids = await spend(gateway, calls)
            assert calls == len(set(ids))
            await until(lambda: gateway.said("projection_failed"), 20)
            await asyncio.sleep(max(0.0, down_s - (time.monotonic() - began)))
            taker.open()
            for kill in (1, 2):
                await until(lambda kill=kill: len(taker.chats) > kill * calls // 4, 60 + calls / 100)  # type: ignore[misc]
                os.kill(gateway.said("projections_started")[-1]["pid"], signal.SIGKILL)
                gateway.says("projections_started", kill + 1, 40)
            await until(lambda: calls == len(taker.chats), 60 + calls / 100)
            await until(lambda: (calls, provider.bill_nusd()) == totals(gateway), 30)
            await until(lambda: wanted == {name for name, _ in taker.alerts}, 30)
            assert 2 == len(gateway.said("projections_died"))
    finally:
        taker.close()
    again = sum(times - 1 for times in taker.chats.values())
    print(f"{calls} calls, {len(taker.chats)} span ids, {again} of them sent twice; alerts {dict(taker.alerts)}")
    assert again <= 2 * 500 + 512  # what was on its way at the two kills, and one batch that was cut
