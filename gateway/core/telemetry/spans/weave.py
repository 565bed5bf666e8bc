"""The journal as spans: each batch of entries gives the spans and log records that it completes.

Invariant: the same entries give spans of the same ids, so that a batch may be sent twice; what must be known later is
in the notebook, written with the cursor and not before. What never enters: sending, a backend's own names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.ports import Notebook, Reading
from gateway.core.telemetry import names
from gateway.core.telemetry.changes import CALL_KINDS, Change, Changes
from gateway.core.telemetry.spans import ids, messages, notes
from gateway.core.telemetry.spans.inference import call_spans
from gateway.core.telemetry.spans.notes import Closed, Note
from gateway.core.telemetry.spans.span import (
    Event,
    Place,
    Record,
    Severity,
    Span,
    Value,
    Wishes,
    amended,
    described,
    kept,
)
from gateway.core.telemetry.spans.trees import feedback_span, judged, root_span, tool_span
from gateway.core.telemetry.spans.withheld import Withheld
from gateway.core.types import Entry, Exchange, Run

NOTES_MOST: Final = 20_000  # runs in the notebook; above, a quarter is forgotten, ended ones first
PREFIX: Final = "run/"
_any = msgspec.msgpack.Decoder().decode

# Which events are told as log records, too, and how loud; a finding says that itself.
LOUD: Final[dict[str, Severity]] = {
    names.CUT: "WARN",
    names.THRESHOLD: "WARN",
    names.KILLED: "WARN",
    names.FINDING: "WARN",
    names.AMENDED: "INFO",
    names.EXCEPTION: "WARN",
    names.DETAILS: "INFO",
    **dict.fromkeys([*names.REFUSAL_EVENTS.values(), names.REFUSED], "WARN"),
}
_FINDING: Final[dict[str, Severity]] = {"info": "INFO", "warn": "WARN", "critical": "ERROR"}


class Woven(Struct):
    """What a batch came to. notes: for the notebook, with the cursor."""

    spans: list[Span] = []
    records: list[Record] = []
    notes: dict[str, bytes | None] = {}


def _loud(event: Event) -> Severity:
    if event.name == names.FINDING:
        return _FINDING.get(str(event.attributes.get(names.FINDING_SEVERITY)), "WARN")
    return LOUD[event.name]


class Weaver:
    """Makes spans for one destination. `wishes`: how it wants them; `records`: log records as well."""

    def __init__(self, reading: Reading, notebook: Notebook, wishes: Wishes, records: bool = False) -> None:
        self._changes = Changes(reading)
        self._notebook = notebook
        self._wishes = wishes
        self._records = records
        self._known: int | None = None  # notes in the notebook
        self._coming = 0  # what the batch in hand adds to them
        self._open: dict[str, tuple[bytes | None, Note]] = {}
        self._woven = Woven()
        self._withheld = Withheld(reading, notebook) if wishes.in_spans or wishes.in_events else None

    def weave(self, entries: Sequence[Entry], now: float = 0.0) -> Woven:
        """The spans that these entries complete, and with content opted in, what waited for it; without entries only
        that. Nothing is remembered until the caller writes the notes."""
        self._woven, self._open = Woven(), {}
        withheld, at = self._withheld, entries[-1].at if entries else now
        last = entries[-1].seq if entries else self._notebook.cursor
        for entry in entries if withheld is None else withheld.ready(entries, last, now):
            self._take(entry)
        if withheld is not None:
            self._woven.notes.update(withheld.changes())
        for key, (raw, note) in self._open.items():
            if notes.encode(note) != (raw or b""):
                note.at = at
                self._woven.notes[PREFIX + key] = notes.encode(note)
        self._forget()
        self._open = {}
        return self._woven

    def written(self) -> None:
        """The notes of the latest batch are in the notebook."""
        self._known = (self._known or 0) + self._coming
        self._coming = 0

    def _take(self, entry: Entry) -> None:
        if entry.kind in CALL_KINDS:
            for change in self._changes.of([entry]):
                if change.before is None:
                    self._call(change, change.call)
                else:
                    self._amend(change, change.before)
        elif entry.kind in _TELLS:
            _TELLS[entry.kind](self, entry, _any(entry.data))

    def _begin(self, entry: Entry, data: dict[str, Any]) -> None:
        self._changes.forget(entry.run)
        note = self._note(entry.run)
        if entry.kind == "run" or data.get("episode", 1) > note.episode:
            notes.begin(note, data.get("episode", 1), entry.at)

    # ----------------------------------------------------------------------- calls

    def _call(self, change: Change, call: Exchange) -> None:
        key, run, wishes = change.entry.run, change.run, self._wishes
        call.content = self._withheld.laid(call) if self._withheld is not None else None
        note = self._note(key, run)
        note.trace_id = ids.trace_of(key, note.trace_id or (run.trace_id if run is not None else None))
        late = note.closed > 0 and call.started_at < note.closed_at
        place = self._place(key, note, run, note.closed if late else note.episode)
        for closed in notes.close(note, call):
            said = messages.result_of(call, closed.tool.id) if wishes.in_spans else None
            self._woven.spans.append(tool_span(closed, place, said))
        self._tell(call_spans(call, place, wishes), call)
        self._learn(note, call)
        arguments: dict[str, str | None] = {}
        if wishes.in_spans:
            arguments = {tool.id: messages.arguments_of(call, tool.id) for tool in call.tool_calls}
        tools = notes.asked(call, arguments)
        over = late or note.closed == note.episode  # nobody will bring their results
        self._unfinished(notes.unfinished(tools, call.ended_at) if over else notes.hold(note, tools), place)

    def _learn(self, note: Note, call: Exchange) -> None:
        """What the root will say."""
        section = self._wishes.section(call.provider)
        provider = names.provider_name(call.provider, section.preset, call.dialect)
        if call.attempts and provider not in note.providers and len(note.providers) < notes.PROVIDERS_MOST:
            note.providers.append(provider)
        note.error = names.error_type(call.outcome, call.reason, call.status, call.first_at is not None) or ""
        if self._wishes.in_spans:
            asked, answered = messages.texts(call)
            note.first = note.first or asked
            note.last = answered or note.last

    def _amend(self, change: Change, before: Exchange) -> None:
        entry, key = change.entry, change.entry.run
        note = self._note(key, change.run)
        note.trace_id = ids.trace_of(key, note.trace_id or (change.run.trace_id if change.run is not None else None))
        place = self._place(key, note, change.run, note.episode)
        span = amended(change.call, before, place, entry.seq, entry.kind, entry.at)
        if span is not None:
            self._woven.spans.append(span)
            self._record(names.AMENDED, entry, "INFO", place, (span.span_id, dict(span.attributes)))

    def _tell(self, spans: list[Span], call: Exchange) -> None:
        self._woven.spans += spans
        span = spans[0]
        whose = {name: span.attributes[name] for name in (names.RUN_ID, names.CALL_ID, names.STEP)}
        for number, event in enumerate(span.events):
            if event.name in LOUD:
                said = {**whose, **event.attributes, names.EVENT_ID: ids.event_id(span.span_id, str(number))}
                body = described(event.name, event.attributes)
                loud = _loud(event)
                self._add(Record(event.name, event.at, loud, body, span.trace_id, span.span_id, kept(said)))
        content = messages.attributes(call) if self._wishes.in_events else {}
        if content:
            told = kept({**span.attributes, **content, names.EVENT_ID: ids.event_id(span.span_id, "content")})
            self._add(Record(names.DETAILS, call.ended_at, "INFO", names.DETAILS, span.trace_id, span.span_id, told))

    def _unfinished(self, closed: list[Closed], place: Place) -> None:
        self._woven.spans += [tool_span(one, place) for one in closed]

    # ----------------------------------------------------------------------- runs

    def _end(self, entry: Entry, data: dict[str, Any]) -> None:
        told = data.get("at_end")
        run = msgspec.convert(told, Run) if told is not None else self._changes.run(entry.run)
        if run is None:  # forgotten before it was read
            return
        note = self._note(entry.run, run)
        episode = data.get("episode", run.episode)
        note.trace_id = ids.trace_of(entry.run, note.trace_id or run.trace_id)
        place = self._place(entry.run, note, run, episode)
        if entry.kind == "kill":
            said = {names.RUN_ID: run.id, names.RUN_REASON: run.reason or ""}
            self._record(names.KILLED, entry, "WARN", place, (place.root_id, said))
        if note.closed >= episode:  # an ended run that is killed: its root was sent
            return
        self._unfinished(notes.end(note, run.ended_at or entry.at), place)
        self._woven.spans.append(root_span(run, note, place, data, self._above(run)))
        note.closed, note.closed_at = episode, entry.at
        note.events, note.providers = [], []

    def _above(self, run: Run) -> Place | None:
        """Where the parent of a run stands."""
        if run.parent is None:
            return None
        parent = self._changes.run(run.parent)
        note = self._peek(run.parent)
        told = (note.trace_id if note is not None else "") or (parent.trace_id if parent is not None else None)
        episode = note.episode if note is not None else parent.episode if parent is not None else 1
        trace = ids.trace_of(run.parent, told)
        return Place(run.parent, trace, ids.root_id(run.parent, episode), episode, parent)

    def _threshold(self, entry: Entry, data: dict[str, Any]) -> None:
        said = {
            names.BUDGET: str(data.get("budget", "")), names.ACCOUNT: str(data.get("account", "")),
            names.UNIT: str(data.get("unit", "")), names.REACHED: str(data.get("threshold", "")),
            names.LIMIT: data.get("limit", 0), names.SPENT: data.get("spent", 0),
        }  # fmt: skip
        if not entry.run:  # of an agent, a user, a key: no run's span is affected
            trace = ids.trace_of(str(data.get("account")), None)
            said[names.EVENT_ID] = ids.event_id("threshold", str(entry.seq))
            self._add(
                Record(names.THRESHOLD, entry.at, "WARN", described(names.THRESHOLD, said), trace, None, kept(said))
            )
            return
        run, note = self._changes.run(entry.run), self._note(entry.run)
        if len(note.events) < notes.EVENTS_MOST and note.closed < note.episode:
            note.events.append((names.THRESHOLD, entry.at, dict(said)))
        place = self._place(entry.run, note, run, note.episode)
        self._record(names.THRESHOLD, entry, "WARN", place, (place.root_id, said))

    def _feedback(self, entry: Entry, data: dict[str, Any]) -> None:
        run = self._changes.run(entry.run)
        note = self._note(entry.run, run)
        place = self._place(entry.run, note, run, note.episode)
        event = Event(names.EVALUATION, entry.at, kept(judged(data)))
        if note.closed >= note.episode:
            self._woven.spans.append(feedback_span(event, place, entry.seq))
        elif len(note.events) < notes.EVENTS_MOST:
            note.events.append((event.name, event.at, dict(event.attributes)))
        self._record(names.EVALUATION, entry, "INFO", place, (place.root_id, event.attributes))

    # ----------------------------------------------------------------------- what is shared

    def _place(self, key: str, note: Note, run: Run | None, episode: int) -> Place:
        trace = note.trace_id or ids.trace_of(key, run.trace_id if run is not None else None)
        return Place(key, trace, ids.root_id(key, episode), episode, run)

    def _record(
        self, name: str, entry: Entry, loud: Severity, place: Place, told: tuple[str, Mapping[str, Value]]
    ) -> None:
        span_id, said = told
        known = {names.RUN_ID: place.run_id, **said, names.EVENT_ID: ids.event_id(name, span_id, str(entry.seq))}
        self._add(Record(name, entry.at, loud, described(name, said), place.trace_id, span_id, kept(known)))

    def _add(self, record: Record) -> None:
        if self._records:
            self._woven.records.append(record)

    def _note(self, key: str, run: Run | None = None) -> Note:
        if key not in self._open:
            raw = self._notebook.get(PREFIX + key)
            fresh = Note(episode=run.episode, episode_at=run.episode_at) if run is not None else Note()
            self._open[key] = (raw, notes.decode(raw) if raw is not None else fresh)
        return self._open[key][1]

    def _peek(self, key: str) -> Note | None:
        if key in self._open:
            return self._open[key][1]
        raw = self._notebook.get(PREFIX + key)
        return notes.decode(raw) if raw is not None else None

    def _forget(self) -> None:
        """Keeps the notebook bounded."""
        if self._known is None:
            self._known = sum(1 for _ in self._notebook.all(PREFIX))
        self._coming = sum(1 for raw, _ in self._open.values() if raw is None)
        if self._known + self._coming <= NOTES_MOST:
            return
        found = [(notes.decode(raw), key) for key, raw in self._notebook.all(PREFIX) if key not in self._woven.notes]
        ranked = sorted((note.closed < note.episode, note.at, key) for note, key in found)
        gone = ranked[: NOTES_MOST // 4]
        self._woven.notes.update({key: None for *_, key in gone})
        self._coming -= len(gone)


_TELLS: Final[dict[str, Callable[[Weaver, Entry, dict[str, Any]], None]]] = {
    "run": Weaver._begin,
    "resume": Weaver._begin,
    "end": Weaver._end,
    "kill": Weaver._end,
    "threshold": Weaver._threshold,
    "feedback": Weaver._feedback,
}
