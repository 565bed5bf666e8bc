"""OTLP over HTTP to a real server: what arrives, in which headers, and what each answer means."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from gateway.core.errors import ConfigError, UpstreamFailed
from gateway.core.telemetry.settings import Destination
from gateway.core.telemetry.spans.span import Record, Span
from gateway.projections.otlp import post
from gateway.projections.otlp.answer import Never, Taken
from gateway.projections.otlp.encode import Encoder
from gateway.projections.otlp.post import Post
from tests.otlp import OtlpServer, always
from tests.play import free_port

ENCODER = Encoder({"service.name": "meterbox"}, "0.1.0")
SPAN = ENCODER.span(Span("chat m", "client", "a" * 32, "b" * 16, None, 1.0, 2.0, {"x": 1}))
RECORD = ENCODER.record(Record("meterbox.finding", 5.0, "WARN", "words", "a" * 32, "b" * 16, {}))


def to(url: str, **more: Any) -> Post:
    """A way to this server."""
    headers = more.pop("headers", {"x-api-key": "secret"})
    return Post(Destination("d", url, **{"timeout_s": 5.0, **more}), headers, lambda: 0.0)


def test_spans_and_records_arrive_as_protobuf_with_their_headers():
    """Rule 11: protobuf, packed; the operator's headers; each signal at its path."""
    with OtlpServer() as server:
        way = to(server.url)
        assert (Taken(), Taken()) == (way.spans([SPAN]), way.records([RECORD]))
        way.close()
    (traces, named, _), (logs, _, _) = server.requests
    assert ("/v1/traces", "/v1/logs") == (traces, logs)
    assert ("secret", "application/x-protobuf", "gzip") == (
        named["x-api-key"], named["content-type"], named["content-encoding"]
    )  # fmt: skip
    assert ["b" * 16] == list(server.spans)
    assert "meterbox.finding" == server.records[0].event_name


def test_no_other_destinations_credentials_ride_along(monkeypatch, tmp_path):
    """The exporter would add the environment's headers, requests the machine's netrc."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer other")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with OtlpServer() as server:
        way = to(server.url, compression="none")
        way.spans([SPAN])
        way.close()
    named = server.requests[0][1]
    assert "other" not in repr(named) and "authorization" not in named
    assert "content-encoding" not in named


def test_a_partial_success_counts_what_was_not_kept():
    """Told in the answer's body; it is never sent again."""
    said = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    )
    with OtlpServer(rule=lambda _: (200, {}, said.SerializeToString())) as server:
        way = to(server.url)
        assert Taken(2, "too old") == way.spans([SPAN])
        way.close()


@pytest.mark.parametrize("body", [b'{"partialSuccess":{}}', b"OK", b""])
def test_a_success_is_a_success_whatever_its_body_says(body):
    """Some backends answer JSON to protobuf."""
    with OtlpServer(rule=lambda _: (202, {}, body)) as server:
        way = to(server.url)
        assert Taken() == way.spans([SPAN])
        way.close()


def test_statuses_are_told_apart_and_nothing_is_tried_twice():
    """400 is final; 429 waits as long as it asks; a redirect is no success; the exporter's own retries are off."""
    with OtlpServer() as server:
        way = to(server.url)
        server.rule = lambda _: (400, {}, b"no")
        assert isinstance(way.spans([SPAN]), Never)
        server.rule = lambda _: (429, {"retry-after": "7"}, b"")
        with pytest.raises(UpstreamFailed) as caught:
            way.spans([SPAN])
        assert 7.0 == caught.value.wait_s
        for status in (307, 401, 503):
            server.rule = always(status, {"location": "http://127.0.0.1:1/"}, b"secret words")
            with pytest.raises(UpstreamFailed) as caught:
                way.spans([SPAN])
            assert "secret" not in str(caught.value)
        assert 5 == len(server.requests)
        way.close()


def test_nobody_there_is_a_failure_at_once():
    """No pause of its own: the driver has one."""
    way = to(f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(UpstreamFailed) as caught:
        way.spans([SPAN])
    assert ("connect", True) == (caught.value.kind, time.monotonic() - began < 3)
    way.close()


def test_a_kept_connection_that_was_closed_is_opened_again():
    """An idle destination hangs up while the next batch is on its way; that goes through without a failure."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()

        def hangs_up() -> None:
            kept, _ = one.accept()
            with kept:
                read(kept)
                kept.sendall(answer)
                read(kept)
            again, _ = one.accept()
            with again:
                read(again)
                again.sendall(answer)

        thread = threading.Thread(target=hangs_up, daemon=True)
        thread.start()
        way = to(f"http://127.0.0.1:{one.getsockname()[1]}")
        assert [Taken(), Taken()] == [way.spans([SPAN]), way.spans([SPAN])]
        thread.join(5)
        way.close()


def read(line: socket.socket) -> None:
    """One request, whole."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += line.recv(65536)
    head, _, body = said.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += line.recv(65536)


def test_a_destination_that_never_answers_times_out():
    """Within its timeout_s."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        way = to(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.2)
        with pytest.raises(UpstreamFailed) as caught:
            way.spans([SPAN])
        assert "timeout" == caught.value.kind
        way.close()


def test_an_endless_answer_is_read_to_a_bound():
    """What lies behind 64 KiB is not waited for."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()

        def flood() -> None:
            line, _ = one.accept()
            with line:
                line.recv(65536)
                line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
                try:
                    for _ in range(1000):
                        line.sendall(b"\0" * 65536)
                except OSError:
                    return

        thread = threading.Thread(target=flood)
        thread.start()
        way = to(f"http://127.0.0.1:{one.getsockname()[1]}")
        assert isinstance(way.spans([SPAN]), Taken)
        assert len(way._traces.seen.body) <= post.ANSWER_MOST  # type: ignore[union-attr]
        way.close()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def answering(*parts: bytes) -> Iterator[str]:
    """A server that says exactly this to every request, and closes; its URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # the end of the test
            while True:
                line, _ = listening.accept()
                with line:
                    read(line)
                    line.sendall(b"".join(parts))

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    listening.close()


BROKEN = (
    b"content-length: 1000\r\n\r\nabc",
    b"content-length: 3\r\ncontent-encoding: gzip\r\n\r\nabc",
    b"transfer-encoding: chunked\r\n\r\nzzz\r\nabc",
)


@pytest.mark.parametrize("rest", BROKEN)
@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_that_breaks_off_is_what_its_status_says(status, rest):
    """Never a batch that can't succeed: an outage behind a proxy would cost every span of it."""
    with answering(b"HTTP/1.1 %d word\r\nretry-after: 7\r\n" % status, rest) as url:
        way = to(url)
        if status == 200:
            assert Taken() == way.spans([SPAN]) == way.records([RECORD])
        else:
            with pytest.raises(UpstreamFailed) as caught:
                way.spans([SPAN])
            assert ("status", 7.0) == (caught.value.kind, caught.value.wait_s)
        way.close()


@pytest.mark.parametrize("said", [b"\0\1\2 garbage\r\n\r\n", b"", b"HTTP/1.1 99999 no\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_what_is_no_answer_is_a_failure_that_passes(said):
    """Another program's port, a proxy that dies: sent again later."""
    with answering(said) as url:
        way = to(url)
        with pytest.raises(UpstreamFailed, match="no answer"):
            way.spans([SPAN])
        way.close()


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("http://a..local:4318", {}),
        (f"http://{'a' * 70}.local:4318", {}),
        ("https://127.0.0.1:9", {"client_certificate": "/no/such/file"}),
        ("https://127.0.0.1:9", {"certificate": "/no/such/file"}),
    ],
)
def test_what_an_operator_can_heal_is_no_defect_of_a_span(url, more):
    """A host that is none, a certificate that is being renewed: not a span is dropped for it."""
    way = to(url, **more)
    with pytest.raises(UpstreamFailed, match="no answer"):
        way.spans([SPAN])
    way.close()


@pytest.mark.parametrize("url", ["http://.local:4318", "http://*.local"])
def test_an_address_that_is_none_stops_the_start(url):
    """Said with its reason, and tried again like any failure to open."""
    with pytest.raises(ConfigError, match="InvalidURL"):
        to(url)


def test_what_cant_be_encoded_is_final(capsys):
    """One such span must not stop all that follow; the exporter's own complaint goes nowhere."""
    bad = ENCODER.span(Span("\ud800", "client", "a" * 32, "b" * 16, None, 1.0, 2.0, {}))
    with OtlpServer() as server:
        way = to(server.url)
        assert isinstance(way.spans([bad]), Never)
        way.close()
    assert [] == server.requests
    assert ("", "") == tuple(capsys.readouterr())
    assert False is logging.getLogger("opentelemetry.exporter").propagate
