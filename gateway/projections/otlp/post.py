"""OTLP over HTTP: the OpenTelemetry exporter, on a line of ours that sees what the destination answered.

The exporter says success or failure; whether a batch may succeed later stands in the status, so the line keeps it. It
also ends the exporter's own retries (the driver has its own pause and never gives up) and takes off what the exporter
adds from the environment, and requests from ~/.netrc: one destination's credentials must not reach another. What never
enters: redirects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final

from google.protobuf.message import DecodeError
from msgspec import Struct
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from requests import PreparedRequest, Request, Response, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException, SSLError, Timeout

from gateway.core.errors import ConfigError, UpstreamFailed
from gateway.core.telemetry.settings import Destination
from gateway.projections.otlp.answer import Answer, Never, of_status, partial

ANSWER_MOST: Final = 65_536  # bytes of an answer that are read
OWN_HEADERS: Final = frozenset({"content-type", "content-encoding", "content-length", "user-agent"})


class Seen(Struct, frozen=True):
    """The end of one request: a status with what it said, or why there was none."""

    status: int | None = None
    retry_after: str | None = None
    body: bytes = b""
    failure: UpstreamFailed | None = None


class _Unsuccessful(Exception):
    """Ends the exporter's attempt: it is told of anything but a success as of a defect, which it does not retry."""


class Line(HTTPAdapter):
    """Carries one exporter's requests; keeps how the last one ended."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._headers = dict(headers)
        self.seen: Seen | None = None

    def send(self, request: PreparedRequest, *args: Any, **how: Any) -> Response:
        """See `HTTPAdapter`. Raises `_Unsuccessful` where the destination did not take it."""
        kept = {name: value for name, value in request.headers.items() if name.lower() in OWN_HEADERS}
        request.headers.clear()
        request.headers.update({**kept, **self._headers})
        try:
            response = self._answered(request, *args, **{**how, "stream": True})
        except Exception as error:  # a certificate's file that is missing, a host that is none: counted as failures
            self.seen = Seen(failure=UpstreamFailed(f"no answer ({type(error).__name__})", kind=_kind(error)))
            raise _Unsuccessful from error
        with response:
            successful = 200 <= response.status_code < 300
            body = _begun(response) if successful else b""
        self.seen = Seen(response.status_code, response.headers.get("retry-after"), body)
        if not successful:
            raise _Unsuccessful
        short = Response()
        short.status_code, short.url, short.request, short.raw = response.status_code, response.url, request, BytesIO()
        return short

    def _answered(self, request: PreparedRequest, *args: Any, **how: Any) -> Response:
        try:
            return super().send(request, *args, **how)
        except NoConnection as error:
            if isinstance(error, Timeout | SSLError):
                raise
            return super().send(request, *args, **how)  # a kept connection that the other side had closed


def _begun(response: Response) -> bytes:
    """What a success begins to say. One that breaks off, or isn't packed as it claims, is a success all the same."""
    try:
        return next(response.iter_content(ANSWER_MOST), b"")[:ANSWER_MOST]
    except RequestException:
        return b""


class Post:
    """Sends batches of one destination over HTTP. Raises ConfigError where its address is none."""

    def __init__(self, destination: Destination, headers: Mapping[str, str], now: Callable[[], float]) -> None:
        log = logging.getLogger("opentelemetry.exporter")  # what it would say, the projection says with its counters
        log.propagate = False
        log.addHandler(logging.NullHandler())
        self._now = now
        for url in (destination.traces_url, destination.logs_url):
            _possible(url)
        self._traces, self._logs = Line(headers), Line(headers)
        self._spans: Any = OTLPSpanExporter(
            destination.traces_url, session=_session(destination, self._traces), **_how(destination)
        )
        self._records: Any = OTLPLogExporter(
            destination.logs_url, session=_session(destination, self._logs), **_how(destination)
        )

    def spans(self, batch: Sequence[ReadableSpan]) -> Answer:
        """Raises UpstreamFailed where they may be taken later."""
        self._traces.seen = None
        taken = self._spans.export(batch) is SpanExportResult.SUCCESS
        return self._judged(taken, self._traces.seen, _rejected_spans)

    def records(self, batch: Sequence[ReadableLogRecord]) -> Answer:
        """Raises UpstreamFailed where they may be taken later."""
        self._logs.seen = None
        taken = self._records.export(batch) is LogRecordExportResult.SUCCESS
        return self._judged(taken, self._logs.seen, _rejected_records)

    def close(self) -> None:
        """Lets go of the connections."""
        self._spans.shutdown()
        self._records.shutdown()

    def _judged(self, taken: bool, seen: Seen | None, read: Callable[[bytes], tuple[int, str]]) -> Answer:
        if seen is None:  # it can't be written as OTLP, or is larger than the exporter sends
            return Never("it can't be encoded")
        if seen.failure is not None:
            raise seen.failure
        if not taken:
            return of_status(seen.status or 0, seen.retry_after, self._now())
        try:
            return partial(*read(seen.body))
        except DecodeError:  # some answer with JSON, or in words: a success is a success
            return partial(0, "")


def _possible(url: str) -> None:
    """Judges what requests refuses before a line sees it: it would look like a batch that can't be encoded."""
    try:
        Request("POST", url).prepare()
    except RequestException as error:
        raise ConfigError(f"nothing can be sent to this address ({type(error).__name__})") from error


def _session(destination: Destination, line: Line) -> Session:
    session = Session()
    session.mount("https://", line)
    session.mount("http://", line)
    if destination.client_certificate is not None:
        key = destination.client_key
        session.cert = (destination.client_certificate, key) if key else destination.client_certificate
    return session


def _how(destination: Destination) -> dict[str, Any]:
    return {
        "certificate_file": destination.certificate,
        "timeout": destination.timeout_s,
        "compression": Compression.Gzip if destination.compression == "gzip" else Compression.NoCompression,
        "headers": {},
    }


def _kind(error: Exception) -> str:
    if isinstance(error, Timeout):
        return "timeout"
    return "tls" if isinstance(error, SSLError) else "connect"


def _rejected_spans(body: bytes) -> tuple[int, str]:
    said = ExportTraceServiceResponse.FromString(body).partial_success
    return said.rejected_spans, said.error_message


def _rejected_records(body: bytes) -> tuple[int, str]:
    said = ExportLogsServiceResponse.FromString(body).partial_success
    return said.rejected_log_records, said.error_message
