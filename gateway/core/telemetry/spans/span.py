"""What a span is here: plain values, of the size that backends keep, before any exporter sees them.

Invariant: at most 128 attributes, no text above 2,048 bytes but opted-in content, times in whole nanoseconds with the
end never before the start; identity stands on every span (contract, section 3.1). What never enters: a backend's own
names (presets.py), an exporter's classes (projections/otlp.py), content that nobody opted in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from gateway.core.presets import PRESETS
from gateway.core.telemetry import names
from gateway.core.telemetry.spans import ids
from gateway.core.types import NUSD, Exchange, Provider, Run

MOST_ATTRIBUTES: Final = 128  # of one span: the SDK's own limit (contract, rule 13)
MOST_BYTES: Final = 2_048  # of one value: Tempo's max_attribute_bytes
MOST_CONTENT_BYTES: Final = 65_536  # of opted-in content
NAME_MOST: Final = 256  # bytes of a span's name, and of its status message
MOST_ITEMS: Final = 32  # of a list

Value = str | bool | int | float | tuple[str, ...]
Attributes = dict[str, Value]
Kind = Literal["internal", "client"]
# Values that hold opted-in content keep their own bound: half a JSON text is none.
CONTENT: Final = frozenset(
    {
        names.SYSTEM, names.INPUT_MESSAGES, names.OUTPUT_MESSAGES, names.TOOL_DEFINITIONS, names.TOOL_ARGUMENTS,
        names.TOOL_RESULT, names.INPUT, names.OUTPUT,
    }
)  # fmt: skip


class Event(Struct, frozen=True):
    """Something that happened at one instant of a span."""

    name: str
    at: float
    attributes: Attributes


class Link(Struct, frozen=True):
    """Another span that this one belongs with."""

    trace_id: str
    span_id: str
    attributes: Attributes = {}


class Span(Struct, frozen=True):
    """One finished span. Ids in lower-case hex; error: the status message, None for a status that is not set."""

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent: str | None
    start: float
    end: float
    attributes: Attributes
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    error: str | None = None

    @property
    def start_ns(self) -> int:
        """The start in nanoseconds since the epoch."""
        return nanos(self.start)

    @property
    def end_ns(self) -> int:
        """The end, never before the start."""
        return max(nanos(self.start), nanos(self.end))


Severity = Literal["INFO", "WARN", "ERROR"]


class Record(Struct, frozen=True):
    """One log record: an event that is told on its own, too."""

    name: str
    at: float
    severity: Severity
    body: str
    trace_id: str
    span_id: str | None
    attributes: Attributes


class Section(Struct, frozen=True):
    """What spans say of a configured provider section: whose it is, and where it is reached."""

    preset: str = ""
    host: str = ""
    port: int | None = None


class Wishes(Struct, frozen=True):
    """How one destination wants its spans, whatever its preset adds."""

    role: Literal["generation", "proxy"] = "generation"
    content: str = "NO_CONTENT"
    cache_write_key: str = "cache_creation"
    price_version: str = ""
    sections: Mapping[str, Section] = {}

    @property
    def in_spans(self) -> bool:
        """Does content go onto spans?"""
        return self.content in ("SPAN_ONLY", "SPAN_AND_EVENT")

    @property
    def in_events(self) -> bool:
        """Does content go into log records?"""
        return self.content in ("EVENT_ONLY", "SPAN_AND_EVENT")

    def section(self, name: str) -> Section:
        """What is known of a section; by its name alone where the configuration has it no more."""
        return self.sections.get(name) or section_of(PRESETS.get(name))


class Place(Struct, frozen=True):
    """Where a span hangs: its run's trace and root, and the run as it is known (None: forgotten)."""

    run_key: str
    trace_id: str
    root_id: str
    episode: int
    run: Run | None

    @property
    def run_id(self) -> str:
        """The run's id as its caller knows it."""
        return self.run.id if self.run is not None else self.run_key.rpartition("~")[2]


def section_of(provider: Provider | None) -> Section:
    """A section as spans see it."""
    if provider is None:
        return Section()
    scheme, _, rest = provider.origin.partition("://")
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if not colon or port.endswith("]"):  # no port, perhaps an IPv6 address
        host, port = rest.partition("/")[0], "443" if scheme == "https" else "80"
    return Section(provider.preset, host.strip("[]"), int(port) if host and port.isdigit() else None)


def nanos(at: float) -> int:
    """Whole microseconds as nanoseconds: a float of today's epoch seconds knows no more."""
    return max(0, round(at * 1_000_000)) * 1_000


def dollars(nusd: int) -> float:
    """Nano-dollars for a backend that only takes a double; the exact amount stands beside it."""
    return nusd / NUSD


def clipped(text: str, most: int = MOST_BYTES) -> str:
    """At most so many bytes of UTF-8, cut between characters; half surrogates become `?`."""
    if len(text) * 3 <= most and text.isascii():
        return text
    raw = text.encode("utf-8", "replace")
    return raw[:most].decode("utf-8", "ignore")


def kept(attributes: Mapping[str, Value | None]) -> Attributes:
    """What may be exported: no None, no long text, no long list, at most 128; the first named stay."""
    found: Attributes = {}
    for name, value in attributes.items():
        if value is not None:
            found[name] = _bounded(name, value)
            if len(found) == MOST_ATTRIBUTES:
                break
    return found


def _bounded(name: str, value: Value) -> Value:
    if isinstance(value, str):
        return clipped(value, MOST_CONTENT_BYTES if name in CONTENT else MOST_BYTES)
    if isinstance(value, tuple):
        return tuple([clipped(item, MOST_BYTES // MOST_ITEMS) for item in value[:MOST_ITEMS]])
    if type(value) is int and not -(2**63) <= value < 2**63:  # OTLP's integers have 64 bits
        return float(value)
    return value


def identity(place: Place, operation: str | None) -> dict[str, Value | None]:
    """What every span of a run says of itself. Without an operation it is no span of an AI: no gen_ai.* names."""
    run = place.run
    session = (run.session if run is not None else None) or place.run_id
    return {
        names.OPERATION: operation,
        names.CONVERSATION: session if operation is not None else None,
        names.SESSION: session,
        names.USER: run.user if run is not None else None,
        names.AGENT: run.agent if run is not None and operation is not None else None,
        names.RUN_ID: place.run_id,
        names.KEY_NAME: (run.tenant if run is not None else place.run_key.rpartition("~")[0]) or "none",
    }


def amended(call: Exchange, before: Exchange, place: Place, seq: int, kind: str, at: float) -> Span | None:
    """What changed of a call after its span was sent; None where no figure of it did.

    A sent span can't be changed (contract, rule 12). Sums stay explainable: the exported costs of calls and all
    `delta_nusd` together are what the ledger charged. The names are our own, so that no backend counts them as usage.
    """
    told = (call.cost_nusd, call.cost_source, call.outcome, call.usage)
    if told == (before.cost_nusd, before.cost_source, before.outcome, before.usage):
        return None
    usage = call.usage
    of_call = ids.call_id(call.call_id)
    attributes = {
        **identity(place, None),
        names.CALL_ID: call.call_id,
        names.STEP: call.step,
        names.AMEND_KIND: kind,
        names.AMEND_DELTA: (call.cost_nusd or 0) - (before.cost_nusd or 0),
        names.AMEND_COST: call.cost_nusd,
        names.AMEND_SOURCE: call.cost_source,
        names.AMEND_INPUT: usage.input_tokens if usage is not None else None,
        names.AMEND_OUTPUT: usage.output_tokens if usage is not None else None,
    }
    return Span(
        "meterbox.amend", "internal", place.trace_id, ids.amend_id(call.call_id, seq), of_call, at, at,
        kept(attributes), links=(Link(place.trace_id, of_call),),
    )  # fmt: skip


def described(name: str, said: Mapping[str, Any]) -> str:
    """The sentence of a log record: the event and its short values."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, value in said.items() if key != names.EVENT_ID]
    return clipped(f"{name}: {' '.join(words)}" if words else name)
