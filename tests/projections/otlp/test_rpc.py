"""OTLP over gRPC to a real server of that protocol."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

grpc = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb  # noqa: E402  after the skip
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_rpc  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_rpc  # noqa: E402

from gateway.core.errors import UpstreamFailed  # noqa: E402
from gateway.core.telemetry.settings import Destination  # noqa: E402
from gateway.core.telemetry.spans.span import Record, Span  # noqa: E402
from gateway.projections.otlp.answer import Never, Taken  # noqa: E402
from gateway.projections.otlp.encode import Encoder  # noqa: E402
from gateway.projections.otlp.rpc import Rpc  # noqa: E402
from tests.play import free_port  # noqa: E402

ENCODER = Encoder({"service.name": "meterbox"}, "0.1.0")
SPAN = ENCODER.span(Span("chat m", "client", "a" * 32, "b" * 16, None, 1.0, 2.0, {"x": 1}))
RECORD = ENCODER.record(Record("meterbox.finding", 5.0, "WARN", "words", "a" * 32, "b" * 16, {}))


class Server(trace_rpc.TraceServiceServicer, logs_rpc.LogsServiceServicer):
    """Keeps what it is sent; `code` is what it answers instead."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.code: Any = None
        self.details = ""

    def Export(self, request: Any, context: Any) -> Any:
        """Both services have this one verb."""
        if self.code is not None:
            context.abort(self.code, self.details)
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        if isinstance(request, logs_pb.ExportLogsServiceRequest):
            return logs_pb.ExportLogsServiceResponse()
        partly = trace_pb.ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
        return trace_pb.ExportTraceServiceResponse(partial_success=partly)


@pytest.fixture
def served() -> Iterator[tuple[Server, Rpc]]:
    """A server, and the way to it."""
    one, server = Server(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_rpc.add_TraceServiceServicer_to_server(one, server)
    logs_rpc.add_LogsServiceServicer_to_server(one, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    way = Rpc(Destination("d", f"http://127.0.0.1:{port}", timeout_s=5.0), {"X-Api-Key": "secret"})
    yield one, way
    way.close()
    server.stop(0).wait(5)


def test_spans_and_records_arrive_with_their_headers(served):
    """And a partial success is counted."""
    one, way = served
    assert (Taken(1, "too old"), Taken()) == (way.spans([SPAN]), way.records([RECORD]))
    (span,) = one.requests[0].resource_spans[0].scope_spans[0].spans
    assert ("b" * 16, "secret") == (span.span_id.hex(), one.metadata["x-api-key"])


def test_codes_are_told_apart(served):
    """Malformed and too large are final; a quota, credentials, a server that is down are not."""
    one, way = served
    final = [
        (grpc.StatusCode.INVALID_ARGUMENT, ""),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)"),
    ]
    for one.code, one.details in final:
        assert isinstance(way.spans([SPAN]), Never)
    for code in ("RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE", "UNIMPLEMENTED", "INTERNAL"):
        one.code, one.details = grpc.StatusCode[code], "secret words"
        with pytest.raises(UpstreamFailed, match=code) as caught:
            way.spans([SPAN])
        assert "secret" not in str(caught.value)


def test_nobody_there_is_a_failure():
    """Within its timeout."""
    way = Rpc(Destination("d", f"http://127.0.0.1:{free_port()}", timeout_s=1.0), {})
    with pytest.raises(UpstreamFailed):
        way.spans([SPAN])
    way.close()
