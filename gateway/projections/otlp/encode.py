"""Our span values as the OpenTelemetry SDK's own, with the ids that we derived.

Invariant: nothing is added, dropped or renamed here; ids and times arrive as they are. What never enters: a tracer or a
provider of the SDK (they make ids and times of their own), its batch processor (it loses spans).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway.core.telemetry import names
from gateway.core.telemetry.spans.span import Record, Span, nanos

_KINDS: Final = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_LOUD: Final = {"INFO": SeverityNumber.INFO, "WARN": SeverityNumber.WARN, "ERROR": SeverityNumber.ERROR}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FINE: Final = Status(StatusCode.UNSET)
_NOWHERE: Final = "0" * 16


class Encoder:
    """Makes the SDK's values of one destination, which share a resource and a scope."""

    def __init__(self, resource: Mapping[str, str], version: str) -> None:
        self._resource = Resource(dict(resource), names.SCHEMA_URL)
        self._scope = InstrumentationScope(names.SCOPE, version, names.SCHEMA_URL)

    def span(self, span: Span) -> ReadableSpan:
        """One finished span."""
        return ReadableSpan(
            span.name,
            context=_context(span.trace_id, span.span_id),
            parent=_context(span.trace_id, span.parent) if span.parent is not None else None,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(one.name, one.attributes, nanos(one.at)) for one in span.events],
            links=[Link(_context(one.trace_id, one.span_id), one.attributes) for one in span.links],
            kind=_KINDS[span.kind],
            status=_FINE if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )

    def record(self, record: Record) -> ReadableLogRecord:
        """One log record; without a span it stands in its trace alone."""
        said = LogRecord(
            timestamp=nanos(record.at),
            observed_timestamp=nanos(record.at),
            context=_inside(record),
            severity_text=record.severity,
            severity_number=_LOUD[record.severity],
            body=record.body,
            attributes=record.attributes,
            event_name=record.name,
        )
        return ReadableLogRecord(said, self._resource, self._scope)


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)


def _inside(record: Record) -> Context:
    return set_span_in_context(NonRecordingSpan(_context(record.trace_id, record.span_id or _NOWHERE)), Context())
