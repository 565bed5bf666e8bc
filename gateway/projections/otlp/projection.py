"""One destination's reader of the journal: makes its spans, sends them, and moves its cursor when they were accepted.

Invariant: the cursor moves only behind what the destination has accepted, or can never accept, in one write with the
counters and all that must be remembered; a batch that is sent twice carries the same ids. What never enters: another
destination's state, waiting (the driver pauses), content that nobody opted in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan

from gateway.core.errors import ConfigError
from gateway.core.ports import Notebook, Reading
from gateway.core.telemetry import names
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import Destination
from gateway.core.telemetry.spans import presets
from gateway.core.telemetry.spans.span import Record, Section, Span, Wishes
from gateway.core.telemetry.spans.weave import Weaver, Woven
from gateway.core.types import Entry
from gateway.projections.otlp.answer import Answer, Never
from gateway.projections.otlp.encode import Encoder

BATCH_MOST: Final = 256  # spans, or log records, in one request
IDLE_S: Final = 60.0  # without content nothing here depends on time
WAITING_S: Final = 5.0
_Item = TypeVar("_Item")
SENT, REJECTED, RECORDS = "count/sent", "count/rejected", "count/records"


class Carrier(Protocol):
    """A way to the destination. Both verbs raise UpstreamFailed where the same batch may be taken later."""

    def spans(self, batch: Sequence[ReadableSpan]) -> Answer: ...

    def records(self, batch: Sequence[ReadableLogRecord]) -> Answer: ...

    def close(self) -> None: ...


def _silent(_: str, __: dict[str, Any]) -> None:
    return


class Around(Struct, frozen=True):
    """What all destinations of a process share."""

    now: Callable[[], float]
    health: Health
    say: Callable[[str, dict[str, Any]], None] = _silent  # an event and its fields, into the log
    sections: Mapping[str, Section] = {}
    version: str = ""  # of this gateway
    instance: str = ""
    price_version: str = ""


class OtlpProjection:
    """Implements ports.Projection for one destination. Raises ConfigError where its protocol can't be spoken."""

    def __init__(self, destination: Destination, reading: Reading, notebook: Notebook, around: Around) -> None:
        self._to, self._notebook, self._around = destination, notebook, around
        wishes = Wishes(
            destination.role,
            destination.content,
            destination.cache_write_key,
            around.price_version,
            around.sections,
        )
        self._weaver = Weaver(reading, notebook, wishes, destination.logs or wishes.in_events)
        told = presets.resource(destination.preset, around.version, around.instance, destination.resource)
        self._encoder = Encoder(told, around.version)
        self._carrier = carrier(destination, around.now)
        self._accepted: set[str] = set()  # of the batch in hand: what an earlier try of it brought over
        self._counted = dict.fromkeys((SENT, REJECTED, RECORDS), 0)  # since the notebook was written
        self._tell()

    @property
    def name(self) -> str:
        """See `ports.Projection`."""
        return f"otlp-{self._to.name}"

    @property
    def cursor(self) -> int:
        """See `ports.Projection`."""
        return self._notebook.cursor

    def apply(self, entries: Sequence[Entry]) -> None:
        """See `ports.Projection`."""
        if entries:
            self._deliver(self._weaver.weave(entries, self._around.now()), entries[-1].seq)

    def tick(self, now: float) -> float:
        """See `ports.Projection`. Content that is waited for may never come: then its run is told without."""
        if self._to.content == "NO_CONTENT":
            return IDLE_S
        if not self._accepted:  # else a batch is in hand
            woven = self._weaver.weave((), now)
            if woven.notes:
                self._deliver(woven, self._notebook.cursor)
        return WAITING_S

    def close(self) -> None:
        """Lets go of its connections."""
        self._carrier.close()

    def _deliver(self, woven: Woven, cursor: int) -> None:
        spans = [presets.dressed(span, self._to.preset, self._to.aliases) for span in woven.spans]
        for batch in _batches([span for span in spans if span.span_id not in self._accepted]):
            self._send_spans(batch)
        for told in _batches([one for one in woven.records if _known_by(one) not in self._accepted]):
            self._send_records(told)
        totals = {key: _total(self._notebook, key) + count for key, count in self._counted.items()}
        counts = {key: b"%d" % total for key, total in totals.items()}
        self._notebook.write({**woven.notes, **counts}, cursor)
        self._weaver.written()
        self._accepted.clear()
        self._counted = dict.fromkeys(self._counted, 0)
        self._tell()

    def _send_spans(self, batch: Sequence[Span]) -> None:
        """Sends them, in halves where the whole can't succeed; one that can't succeed alone is dropped."""
        answer = self._carrier.spans([self._encoder.span(span) for span in batch])
        if isinstance(answer, Never) and len(batch) > 1:
            middle = len(batch) // 2
            self._send_spans(batch[:middle])
            return self._send_spans(batch[middle:])
        lost = self._lost(answer, len(batch), batch[0].name, batch[0].span_id)
        self._counted[SENT] += len(batch) - lost
        self._accepted.update(span.span_id for span in batch)

    def _send_records(self, batch: Sequence[Record]) -> None:
        answer = self._carrier.records([self._encoder.record(record) for record in batch])
        if isinstance(answer, Never) and len(batch) > 1:
            middle = len(batch) // 2
            self._send_records(batch[:middle])
            return self._send_records(batch[middle:])
        lost = self._lost(answer, len(batch), batch[0].name, batch[0].span_id or "")
        self._counted[RECORDS] += len(batch) - lost
        self._accepted.update(map(_known_by, batch))

    def _lost(self, answer: Answer, sent: int, name: str, span_id: str) -> int:
        """How many were not kept, said aloud."""
        if isinstance(answer, Never):
            self._counted[REJECTED] += 1
            self._around.say(
                "span_dropped", {"projection": self.name, "name": name, "span_id": span_id, "why": answer.why}
            )
            return 1
        lost = min(answer.rejected, sent)
        if lost:
            self._counted[REJECTED] += lost
            self._around.say(
                "spans_rejected", {"projection": self.name, "rejected": lost, "of": sent, "why": answer.why}
            )
        return lost

    def _tell(self) -> None:
        sent, rejected = _total(self._notebook, SENT), _total(self._notebook, REJECTED)
        self._around.health.tell(self.name, sent=sent, rejected=rejected)


def carrier(destination: Destination, now: Callable[[], float]) -> Carrier:
    """The way to a destination. Raises ConfigError where gRPC is asked for and can't be spoken."""
    headers = {**presets.HEADERS.get(destination.preset, {}), **destination.headers}
    if destination.protocol != "grpc":
        from gateway.projections.otlp.post import Post

        return Post(destination, headers, now)
    try:
        from gateway.projections.otlp.rpc import Rpc
    except ImportError as error:
        raise ConfigError(
            f"destination {destination.name}: protocol grpc needs a package that isn't installed: "
            "pip install 'meterbox[grpc]'"
        ) from error
    return Rpc(destination, headers)


def _batches(items: list[_Item]) -> list[list[_Item]]:
    return [items[at : at + BATCH_MOST] for at in range(0, len(items), BATCH_MOST)]


def _known_by(record: Record) -> str:
    return f"{record.name} {record.span_id} {record.attributes.get(names.EVENT_ID)}"


def _total(notebook: Notebook, key: str) -> int:
    return int(notebook.get(key) or b"0")
