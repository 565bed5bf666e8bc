"""One destination's reader of the journal against a real OTLP server: nothing lost, nothing stuck, every id once."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import ConfigError, UpstreamFailed
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import Destination
from gateway.core.telemetry.spans import ids, weave
from gateway.core.types import Exchange
from gateway.projections.otlp import Around, OtlpProjection, projection
from gateway.stores.memory import MemoryStore
from gateway.stores.notebook import SqliteNotebook
from tests.core.telemetry.spans.spanning import AT, FULL, SECTIONS, World, asks, brings
from tests.otlp import OtlpServer, always
from tests.play import free_port


class Told:
    """A projection over a notebook on disk, with what it said."""

    def __init__(self, folder: Path, store: MemoryStore, url: str, **more: Any) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.health = Health()
        self.store = store
        self.notebook = SqliteNotebook(folder / "otlp-d.sqlite3")
        say = lambda event, fields: self.said.append((event, fields))  # noqa: E731  one line is enough
        self.now = AT
        around = Around(lambda: self.now, self.health, say, SECTIONS, "0.1.0", "i1")
        self.projection = OtlpProjection(Destination("d", url, **more), store.reading(), self.notebook, around)

    def drive(self, limit: int = 500) -> None:
        """As the driver does, until nothing is left."""
        while entries := self.store.reading().entries(self.projection.cursor, limit=limit):
            self.projection.apply(entries)

    def close(self) -> None:
        """The process ends."""
        self.projection.close()
        self.notebook.close()


async def a_run(world: World, name: str = "R", calls: int = 4) -> None:
    """A run with tools, ended."""
    for n in range(calls):
        await world.call(f"{name}-{n}", run=name, **(asks((f"t{n}", "f")) if n % 2 == 0 else brings(f"t{n - 1}")))
    await world.end(name, "ended", None, None)


async def test_every_span_arrives_once_with_the_presets_names(tmp_path):
    """The whole way: journal, spans, wire, backend."""
    world = World()
    await world.call("c1", **FULL)
    await a_run(world)
    with OtlpServer() as server:
        told = Told(tmp_path, world.store, server.url, preset="langfuse", aliases=True)
        told.drive()
        told.close()
    assert {1} == set(server.times.values())
    assert 1 + 2 + 4 + 2 + 1 == len(server.spans)
    said = server.attributes(ids.call_id("c1"))
    assert ("gpt-4o", 1000, ("stop",), 40, 0.25, True) == (
        said["llm.model"], said["gen_ai.usage.input_tokens"], said["gen_ai.response.finish_reasons"],
        said["meterbox.cost.nusd"], said["gen_ai.response.time_to_first_chunk"], said["gen_ai.request.stream"],
    )  # fmt: skip
    assert "langfuse.observation.cost_details" in said
    assert {"service.name": "meterbox", "service.version": "0.1.0", "service.instance.id": "i1"} == server.resources[0]
    assert ("otlp-d", 10, 0) == (told.projection.name, told.health.of("otlp-d").sent, told.health.of("otlp-d").rejected)


async def test_the_cursor_waits_until_the_destination_accepts(tmp_path):
    """Down, refusing credentials, throttling: the same batch again; then everything, once."""
    world = World()
    await a_run(world)
    port = free_port()
    told = Told(tmp_path, world.store, f"http://127.0.0.1:{port}")
    with pytest.raises(UpstreamFailed):
        told.drive()
    assert 0 == told.projection.cursor
    with OtlpServer(port) as server:
        for status in (401, 403, 404, 429, 503):
            server.rule = always(status)
            with pytest.raises(UpstreamFailed):
                told.drive()
        assert (0, 0) == (told.projection.cursor, told.health.of("otlp-d").rejected)
        server.rule = lambda _: None
        told.drive()
        assert {1} == set(server.times.values()) and 7 == len(server.spans)
    assert world.store.reading().ends()[1] == told.projection.cursor
    told.close()


async def test_what_was_accepted_before_a_failure_is_not_sent_again(tmp_path, monkeypatch):
    """Within one process; after a kill the ids are the same, so a repeat is harmless."""
    monkeypatch.setattr(projection, "BATCH_MOST", 2)
    world = World()
    await a_run(world, calls=8)
    with OtlpServer() as server:
        told = Told(tmp_path, world.store, server.url)
        server.rule = lambda _: (503, {}, b"") if len(server.requests) % 3 == 0 else None
        for _ in range(20):
            try:
                told.drive()
                break
            except UpstreamFailed:
                continue
        assert {1} == set(server.times.values()) and 13 == len(server.spans)
        assert 13 == told.health.of("otlp-d").sent
        told.close()


async def test_a_killed_process_sends_the_same_ids_again(tmp_path):
    """Killed after the destination accepted and before the notebook was written: each id is still one span."""
    world = World()
    await a_run(world, "R")
    with OtlpServer() as server:
        first = Told(tmp_path, world.store, server.url)
        first.notebook.write = _dies  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            first.drive()
        first.close()
        spans = dict(server.spans)
        assert 7 == len(spans)
        second = Told(tmp_path, world.store, server.url)
        second.drive()
        second.close()
    assert spans == server.spans
    assert {2} == set(server.times.values())


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


async def test_a_span_that_can_never_succeed_is_dropped_alone(tmp_path):
    """400 for each request that holds it: halves, until it is alone; counted, named in the log, the rest arrives."""
    world = World()
    await a_run(world, calls=30)
    poison = ids.call_id("R-17")
    with OtlpServer() as server:
        server.rule = lambda spans: (400, {}, b"") if any(one.span_id.hex() == poison for one in spans) else None
        told = Told(tmp_path, world.store, server.url)
        told.drive()
        assert len(server.requests) <= 16
        assert poison not in server.spans and 45 == len(server.spans)
    assert (45, 1) == (told.health.of("otlp-d").sent, told.health.of("otlp-d").rejected)
    ((event, fields),) = told.said
    assert ("span_dropped", poison, "otlp-d") == (event, fields["span_id"], fields["projection"])
    assert world.store.reading().ends()[1] == told.projection.cursor
    told.close()


async def test_a_batch_too_large_is_sent_in_halves(tmp_path):
    """413: nothing is lost of it."""
    world = World()
    await a_run(world, calls=30)
    with OtlpServer(rule=lambda spans: (413, {}, b"") if len(spans) > 10 else None) as server:
        told = Told(tmp_path, world.store, server.url)
        told.drive()
        told.close()
        assert 46 == len(server.spans) and {1} == set(server.times.values())


async def test_a_destination_that_refuses_everything_never_blocks_for_ever(tmp_path):
    """All are dropped, counted, said; the cursor moves."""
    world = World()
    await a_run(world)
    with OtlpServer(rule=lambda _: (400, {}, b"")) as server:
        told = Told(tmp_path, world.store, server.url)
        told.drive()
        assert len(server.requests) <= 2 * 7
    assert 7 == told.health.of("otlp-d").rejected == len(told.said)
    told.close()


async def test_rejected_spans_are_counted_over_restarts(tmp_path):
    """Partial success: counted in the notebook, with the cursor."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    partly = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=3, error_message="no"))
    world = World()
    await a_run(world)
    with OtlpServer(rule=lambda _: (200, {}, partly.SerializeToString())) as server:
        told = Told(tmp_path, world.store, server.url)
        told.drive()
        told.close()
        again = Told(tmp_path, world.store, server.url)
        assert (4, 3) == (again.health.of("otlp-d").sent, again.health.of("otlp-d").rejected)
        server.rule = lambda _: None
        await a_run(world, "S")
        again.drive()
        assert (11, 3) == (again.health.of("otlp-d").sent, again.health.of("otlp-d").rejected)
        again.close()
    assert [("spans_rejected", 3, 7)] == [(event, said["rejected"], said["of"]) for event, said in told.said]


async def test_log_records_go_where_they_are_asked_for(tmp_path):
    """Findings and refusals, with the ids of their spans; off by default."""
    world = World()
    await world.refuse("c1", reason="insufficient_quota")
    await world.call("c2", findings=[{"finding_id": "f", "kind": "loop", "severity": "warn"}])
    for folder, logs, expected in (("a", True, ["meterbox.budget.denied", "meterbox.finding"]), ("b", False, [])):
        with OtlpServer() as server:
            told = Told(tmp_path / folder, world.store, server.url, logs=logs)
            told.drive()
            told.close()
        assert expected == [record.event_name for record in server.records]
        if logs:
            assert ids.call_id("c1") == server.records[0].span_id.hex()


@pytest.mark.parametrize("size", [1, 7, 500])
async def test_batches_and_restarts_don_t_show(tmp_path, size):
    """Any batch size, a process for each batch: the same spans, each once."""
    world = World()
    for n in range(4):
        await a_run(world, f"R{n}")
    with OtlpServer() as server:
        while True:
            told = Told(tmp_path, world.store, server.url)
            entries = world.store.reading().entries(told.projection.cursor, limit=size)
            told.projection.apply(entries)
            told.close()
            if not entries:
                break
    assert 28 == len(server.spans) and {1} == set(server.times.values())
    assert Counter({"execute_tool f": 8, "chat m": 16, "invoke_agent": 4}) == Counter(
        span.name for span in server.spans.values()
    )


async def test_what_it_remembers_is_bounded(tmp_path, monkeypatch):
    """Thousands of runs leave some notes, never one each."""
    monkeypatch.setattr(weave, "NOTES_MOST", 20)
    world = World()
    for n in range(60):
        await a_run(world, f"R{n}", calls=1)
    with OtlpServer() as server:
        told = Told(tmp_path, world.store, server.url)
        told.drive(limit=9)
        assert len(list(told.notebook.all(weave.PREFIX))) <= 20
        assert 60 * 3 == len(server.spans)  # a call, its tool, its root
        told.close()


async def test_opted_in_content_goes_with_its_call_or_the_call_without_it(tmp_path):
    """The span waits for what was captured; `tick` tells when that never came; a destination that is down then, too."""
    world = World()
    said = {"role": "user", "parts": [{"type": "text", "content": "Why?"}]}
    await world.call("c1", content=True)
    await world.call("c2", run="S", content=True)
    port = free_port()
    with OtlpServer(port) as server:
        told = Told(tmp_path, world.store, server.url, content="SPAN_ONLY")
        told.drive()
        assert 0 < told.projection.tick(AT) <= 60
        assert {} == server.spans and world.store.reading().ends()[1] == told.projection.cursor
        await world.capture("c1", input=[said])
        told.drive()
        assert "Why?" in server.attributes(ids.call_id("c1"))["gen_ai.input.messages"]
    told.now = AT + 20
    with pytest.raises(UpstreamFailed):
        told.projection.tick(told.now)
    with OtlpServer(port) as server:
        told.projection.tick(told.now)
        assert [ids.call_id("c2")] == list(server.spans)
        assert "gen_ai.input.messages" not in server.attributes(ids.call_id("c2"))
        told.projection.tick(told.now)
        assert 1 == len(server.requests)
    told.close()


def test_grpc_without_its_package_stops_the_start(tmp_path, monkeypatch):
    """A ConfigError that says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "gateway.projections.otlp.rpc", raising=False)
    with pytest.raises(ConfigError, match="meterbox\\[grpc\\]"):
        Told(tmp_path, World().store, "http://127.0.0.1:1", protocol="grpc")


@pytest.mark.parametrize(
    ("preset", "name", "value"), [("mlflow", "x-mlflow-experiment-id", "0"), ("datadog", "dd-otlp-source", "llmobs")]
)
async def test_a_presets_headers_give_way_to_the_operators(tmp_path, preset, name, value):
    """Contract section 7."""
    world = World()
    await world.call("c1")
    with OtlpServer() as server:
        for folder, headers, expected in (("a", {}, value), ("b", {name: "mine"}, "mine")):
            told = Told(tmp_path / folder, world.store, server.url, preset=preset, headers=headers)
            told.drive()
            told.close()
            assert expected == server.requests[-1][1][name]


async def test_it_is_fast_enough(tmp_path):
    """More than 500 spans a second, mapped, sent and accepted, with everything on; by this process's CPU, so that
    a busy machine doesn't decide."""
    world = World()
    calls: list[Exchange] = []
    for n in range(400):
        calls.append(await world.call(f"c{n}", run=f"R{n % 20}", **{**FULL, **asks((f"t{n}", "f"))}))
    with OtlpServer() as server:
        told = Told(tmp_path, world.store, server.url, preset="langfuse", aliases=True, logs=True)
        began = time.thread_time()
        told.drive()
        used = time.thread_time() - began
        told.close()
    assert 1200 == len(server.spans)
    print(f"\nspans: {len(server.spans) / used:.0f} a second of CPU, mapped, encoded and sent")
    assert len(server.spans) / used > 500
