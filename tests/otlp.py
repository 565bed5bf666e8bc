"""A real OTLP server on loopback: takes spans and log records over HTTP, keeps them by id, answers as it is told.

Invariant: what it answers 200 for it has kept; nothing is faked on the wire.
"""

from __future__ import annotations

import gzip
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Reply = tuple[int, dict[str, str], bytes]
Rule = Callable[[list[Any]], Reply | None]  # spans (or records) of a request -> another answer than 200


def always(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Rule:
    """The same answer to everything."""
    return lambda _: (status, headers or {}, body)


class OtlpServer:
    """Listens from `with` on. `rule` decides about each request; None is a 200."""

    def __init__(self, port: int = 0, rule: Rule | None = None) -> None:
        self.rule: Rule = rule or (lambda _: None)
        self.spans: dict[str, Any] = {}  # by span id in hex, the last one that came
        self.times: Counter[str] = Counter()  # how often each span id was accepted
        self.records: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], int]] = []  # path, headers, spans or records
        self._lock = threading.Lock()
        self._lines: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that died is no traceback
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> OtlpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for line in list(self._lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # a process that ends leaves no kept connection either
        self._thread.join(5)

    def attributes(self, span_id: str) -> dict[str, Any]:
        """A span's attributes as plain values."""
        return plain(self.spans[span_id].attributes)

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if headers.get("content-type") != "application/x-protobuf":
            return 415, {}, b""
        try:
            found, resources = _spans(body) if path.endswith("/v1/traces") else _records(body)
        except DecodeError:
            return 400, {}, b""
        with self._lock:
            self.requests.append((path, headers, len(found)))
            answer = self.rule(found)
            if answer is not None and answer[0] != 200:
                return answer
            self.resources += resources
            for one in found:
                if path.endswith("/v1/traces"):
                    self.spans[one.span_id.hex()] = one
                    self.times[one.span_id.hex()] += 1
                else:
                    self.records.append(one)
        return answer or (200, {"content-type": "application/x-protobuf"}, b"")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Door(BaseHTTPRequestHandler):
            """One connection."""

            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server._lines.add(self.connection)

            def finish(self) -> None:
                server._lines.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                named = {name.lower(): value for name, value in self.headers.items()}
                status, headers, answer = server._take(self.path, named, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        return Door


def plain(attributes: Any) -> dict[str, Any]:
    """OTLP's key-value list as a dict."""
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(one) for one in value.array_value.values)
    return getattr(value, kind)


def _spans(body: bytes) -> tuple[list[Any], list[dict[str, Any]]]:
    told = ExportTraceServiceRequest.FromString(body)
    found = [span for one in told.resource_spans for scope in one.scope_spans for span in scope.spans]
    return found, [plain(one.resource.attributes) for one in told.resource_spans]


def _records(body: bytes) -> tuple[list[Any], list[dict[str, Any]]]:
    told = ExportLogsServiceRequest.FromString(body)
    found = [record for one in told.resource_logs for scope in one.scope_logs for record in scope.log_records]
    return found, [plain(one.resource.attributes) for one in told.resource_logs]
