"""What single backends read under names of their own: added to a span that is already whole (telemetry contract).

Invariant: a preset only adds, and only what the span says already under the standard name; usage and cost never get
onto a span that has none. What never enters: a backend's address, credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import structs

from gateway.core.refusal import rfc3339, usd
from gateway.core.telemetry import names
from gateway.core.telemetry.spans.span import MOST_BYTES, Attributes, Span, Value, clipped, kept

Added = dict[str, Value | None]
_NO_AGENT: Final = "agent"  # Honeycomb's lanes need a name where nobody gave one
_MESSAGES: Final = (names.SYSTEM, names.INPUT_MESSAGES, names.OUTPUT_MESSAGES, names.TOOL_DEFINITIONS)


def _langfuse(span: Span) -> Added:
    said = span.attributes
    agent = said.get(names.AGENT)
    added: Added = {
        names.LF_TRACE: f"invoke_agent {agent}" if agent else said.get(names.RUN_ID),
        names.LF_TAGS: (f"agent:{agent}",) if agent else None,
    }
    first, cost = said.get(names.FIRST_CHUNK), said.get(names.COST_NUSD)
    if isinstance(first, float):
        added[names.LF_FIRST] = rfc3339(round(span.start + first, 6))
    if isinstance(cost, int) and names.COST in said:
        added[names.LF_COSTS] = f'{{"total":{usd(cost)}}}'
    return added


def _langsmith(span: Span) -> Added:
    said = span.attributes
    agent = said.get(names.AGENT)
    return {
        names.LS_SYSTEM: said.get(names.PROVIDER),
        names.LS_SESSION: said.get(names.SESSION),
        names.LS_TRACE: f"invoke_agent {agent}" if agent else said.get(names.RUN_ID),
        names.LS_REASONING: said.get(names.REASONING),
    }


def _phoenix(span: Span) -> Added:
    return {names.PX_REASONING: span.attributes.get(names.REASONING)}


def _honeycomb(span: Span) -> Added:
    if names.OPERATION not in span.attributes:
        return {}
    return {names.AGENT: span.attributes.get(names.AGENT, _NO_AGENT)}


def _tempo(span: Span) -> Added:
    """Tempo cuts a value at 2,048 bytes, and half a list of messages is none: it is left out."""
    long = [name for name in _MESSAGES if len(str(span.attributes.get(name, "")).encode()) > MOST_BYTES]
    return dict.fromkeys(long) | {
        name: clipped(value)
        for name in (names.INPUT, names.OUTPUT, names.TOOL_ARGUMENTS, names.TOOL_RESULT)
        if isinstance(value := span.attributes.get(name), str)
    }


def _generic(span: Span) -> Added:
    return {names.SN_FIRST: span.attributes.get(names.FIRST_CHUNK)}  # SigNoz reads its first token there


def _nothing(_: Span) -> Added:
    return {}


PRESETS: Final[Mapping[str, Callable[[Span], Added]]] = MappingProxyType(
    {
        "langfuse": _langfuse,
        "langsmith": _langsmith,
        "phoenix": _phoenix,
        "mlflow": _nothing,
        "datadog": _nothing,
        "honeycomb": _honeycomb,
        "tempo": _tempo,
        "generic": _generic,
    }
)

# What a backend wants in the request's head, where the operator says nothing else (contract, section 7).
HEADERS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "mlflow": MappingProxyType({"x-mlflow-experiment-id": "0"}),  # MLflow's default experiment
        "datadog": MappingProxyType({"dd-otlp-source": "llmobs"}),
    }
)

_ALIASES: Final = (
    (names.ALIAS_MODEL, names.REQUEST_MODEL),
    (names.ALIAS_INPUT, names.INPUT_TOKENS),
    (names.ALIAS_OUTPUT, names.OUTPUT_TOKENS),
    (names.ALIAS_COST, names.COST),
    (names.ALIAS_TASK, names.RUN_ID),
)


def dressed(span: Span, preset: str, aliases: bool = False) -> Span:
    """The span as this backend wants it. A plain HTTP span (no operation of a model) stays as it is."""
    said = span.attributes
    if names.OPERATION not in said:
        return span
    added = PRESETS.get(preset, _generic)(span)
    if aliases:
        added = {**added, **_aliased(said)}
    if not added:
        return span
    return structs.replace(span, attributes=kept({**said, **added}))


def _aliased(said: Attributes) -> Added:
    """The seed articles' names (R-104). An iteration is a call of the model: a tool span has none."""
    found: Added = {alias: said[name] for alias, name in _ALIASES if name in said}
    if names.REQUEST_MODEL in said:
        found[names.ALIAS_ITERATION] = said.get(names.STEP)
    return found


def resource(preset: str, version: str, instance: str, told: Mapping[str, str]) -> dict[str, str]:
    """The resource of all spans of a destination; what the operator says of it wins."""
    found = {names.SERVICE_NAME: names.SCOPE, names.SERVICE_VERSION: version, names.SERVICE_INSTANCE: instance}
    found = {name: value for name, value in found.items() if value} | dict(told)
    if preset == "phoenix":
        found.setdefault(names.PHOENIX_PROJECT, found[names.SERVICE_NAME])
    return found
