"""OTLP over gRPC, for destinations that speak nothing else: the stubs of OpenTelemetry's own protocol package.

Invariant: a call's status decides as an HTTP status does: too large or malformed is final for that batch, all else may
succeed later. Imported only where a destination asks for gRPC (extra `grpc`). What never enters: retries of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan

from gateway.core.errors import UpstreamFailed
from gateway.core.telemetry.settings import Destination
from gateway.projections.otlp.answer import Answer, Never, partial

# OTLP specification, "OTLP/gRPC Response": these are not retryable for what was sent; others an operator may heal.
_FOR_GOOD: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})
_TOO_LARGE: Final = "larger than max"  # how grpc says it, with the status of an exhausted quota


class Rpc:
    """Sends batches of one destination over gRPC."""

    def __init__(self, destination: Destination, headers: Mapping[str, str]) -> None:
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._timeout_s = destination.timeout_s
        self._channel = _channel(destination)
        stubs: tuple[Any, Any] = (TraceServiceStub, LogsServiceStub)
        self._traces, self._logs = [stub(self._channel) for stub in stubs]

    def spans(self, batch: Sequence[ReadableSpan]) -> Answer:
        """Raises UpstreamFailed where they may be taken later."""
        answer = self._call(self._traces.Export, encode_spans(batch))
        if isinstance(answer, Never):
            return answer
        return partial(answer.partial_success.rejected_spans, answer.partial_success.error_message)

    def records(self, batch: Sequence[ReadableLogRecord]) -> Answer:
        """Raises UpstreamFailed where they may be taken later."""
        answer = self._call(self._logs.Export, encode_logs(batch))
        if isinstance(answer, Never):
            return answer
        return partial(answer.partial_success.rejected_log_records, answer.partial_success.error_message)

    def close(self) -> None:
        """Lets go of the connection."""
        self._channel.close()

    def _call(self, verb: Any, request: Any) -> Any:
        try:
            return verb(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            code = error.code()
            word = f"gRPC {code.name}"
            if code in _FOR_GOOD or (
                code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or "")
            ):
                return Never(word)
            kind = "timeout" if code is grpc.StatusCode.DEADLINE_EXCEEDED else "status"
            raise UpstreamFailed(word, kind=kind) from error


def _channel(destination: Destination) -> Any:
    scheme, _, rest = destination.endpoint.partition("://")
    target = rest.partition("/")[0]
    packed = grpc.Compression.Gzip if destination.compression == "gzip" else grpc.Compression.NoCompression
    if scheme != "https":
        return grpc.insecure_channel(target, compression=packed)
    trusted, key, chain = destination.certificate, destination.client_key, destination.client_certificate
    read = [Path(path).read_bytes() if path else None for path in (trusted, key, chain)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*read), compression=packed)
