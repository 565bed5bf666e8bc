"""Our values as the SDK's: ids, times and attributes arrive as they are."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.trace import StatusCode

from gateway.core.telemetry.spans.span import Event, Link, Record, Span
from gateway.projections.otlp.encode import Encoder
from tests.otlp import plain

ENCODER = Encoder({"service.name": "meterbox"}, "0.1.0")
SPAN = Span(
    "chat m", "client", "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "1111111111111111",
    1_800_000_000.000001, 1_800_000_002.5, {"a": "x", "n": 5, "d": 0.5, "b": True, "l": ("p", "q")},
    events=(Event("e", 1_800_000_001.0, {"k": 1}),), links=(Link("a" * 32, "b" * 16, {"why": "x"}),), error="broke",
)  # fmt: skip


def test_a_span_arrives_as_it_is():
    """Ids, parent, kind, times to the microsecond, attributes by type, events, links, status, resource, scope."""
    told = encode_spans([ENCODER.span(SPAN)]).resource_spans[0]
    (span,) = told.scope_spans[0].spans
    assert (SPAN.trace_id, SPAN.span_id, SPAN.parent) == (
        span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    )  # fmt: skip
    assert ("chat m", 3, 2, "broke") == (span.name, span.kind, span.status.code, span.status.message)
    assert (1_800_000_000_000_001_000, 1_800_000_002_500_000_000) == (
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )
    assert SPAN.attributes == plain(span.attributes)
    assert ("e", 1_800_000_001_000_000_000, {"k": 1}) == (
        span.events[0].name, span.events[0].time_unix_nano, plain(span.events[0].attributes)
    )  # fmt: skip
    assert ("a" * 32, "b" * 16) == (span.links[0].trace_id.hex(), span.links[0].span_id.hex())
    assert {"service.name": "meterbox"} == plain(told.resource.attributes)
    assert "meterbox" == told.scope_spans[0].scope.name


def test_a_root_has_no_parent_and_success_no_status():
    """Unset, as the conventions want it."""
    root = ENCODER.span(Span("r", "internal", "a" * 32, "b" * 16, None, 1.0, 2.0, {}))
    (span,) = encode_spans([root]).resource_spans[0].scope_spans[0].spans
    assert (b"", StatusCode.UNSET.value, 1) == (span.parent_span_id, span.status.code, span.kind)


def test_a_log_record_names_its_span():
    """Severity, body, attributes, event name, trace and span; a record without a span stands in its trace."""
    said = Record("meterbox.finding", 5.0, "ERROR", "words", "a" * 32, "b" * 16, {"k": "v"})
    (one,) = encode_logs([ENCODER.record(said)]).resource_logs[0].scope_logs[0].log_records
    assert ("meterbox.finding", 5_000_000_000, "ERROR", 17, "words") == (
        one.event_name, one.time_unix_nano, one.severity_text, one.severity_number, one.body.string_value
    )  # fmt: skip
    assert ("a" * 32, "b" * 16, {"k": "v"}) == (one.trace_id.hex(), one.span_id.hex(), plain(one.attributes))
    alone = Record("x", 5.0, "INFO", "words", "a" * 32, None, {})
    (one,) = encode_logs([ENCODER.record(alone)]).resource_logs[0].scope_logs[0].log_records
    assert b"" == one.span_id.strip(b"\0")
