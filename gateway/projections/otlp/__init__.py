"""Spans and log records for one OTLP destination each, sent at the destination's own pace and never lost."""

from gateway.projections.otlp.projection import Around, OtlpProjection

__all__ = ["Around", "OtlpProjection"]
