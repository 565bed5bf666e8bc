"""The journal folded into counters and histograms: what each entry adds, once.

Invariant: `meterbox_cost_usd` less `meterbox_cost_corrected_usd`, over all their series, is the sum of what the calls
cost, to the nano-dollar; no counter ever falls, so what a later entry takes back is a counter of its own. The same
entries add the same, however they are cut into batches. What never enters: a clock (instants are the entries'), I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.ledger.book import AMOUNT_MOST
from gateway.core.presets import PRESETS
from gateway.core.telemetry import names
from gateway.core.telemetry.changes import Change, Changes
from gateway.core.telemetry.metrics import durations, families
from gateway.core.telemetry.metrics.families import NONE, OTHER, Family
from gateway.core.telemetry.metrics.kept import Kept
from gateway.core.telemetry.metrics.series import Board, Exemplar, scaled
from gateway.core.telemetry.metrics.standing import Standings
from gateway.core.telemetry.spans.ids import trace_of
from gateway.core.telemetry.spans.span import Section, section_of
from gateway.core.types import Attempt, Entry, Exchange, Run, ToolCall

ENDED_MOST: Final = 4_096  # ended runs whose sums are known, so that a reopened one counts what came new
CALLING_MOST: Final = 2_048  # runs whose tools are awaited
OPEN_MOST: Final = 64  # tools that one run is awaited on
OUTCOMES: Final = frozenset({"ok", "upstream_error", "refused", "cut", "client_left", "unknown"})
RESULTS: Final = frozenset(
    {
        "ok", "cut", "client_left", "unknown", "refused", "connection_error", "broken", "rate_limited", "overloaded",
        "server_error", "client_error",
    }
)  # fmt: skip
SCOPES: Final = frozenset({"run", "agent", "user", "key", "global"})
RUN_OUTCOMES: Final = frozenset({"completed", "gave_up", "failed", "stopped_by_limit", "killed", "abandoned"})
PRICED: Final = frozenset({"price_list", "provider", "override", "estimate", "presumed"})
GUESSED: Final = frozenset({"estimate", "presumed"})
SWEPT: Final = frozenset({"deadline", "lost"})  # why a call was presumed that nobody settled
REASONS: Final = names.CODES | {"insufficient_quota", "budget_ended", "output_over_grant"}
EVENTS: Final = (
    "settle", "void", "presumed", "sweep", "trueup", "correct", "clamped", "overrun", "limit", "threshold",
)  # fmt: skip
TYPES: Final = ("input", "output", "cache_read", "cache_write", "reasoning")
# error.type of a run, by its outcome; the others are no failure.
RUN_ERRORS: Final = {"failed": names.OTHER, "stopped_by_limit": "budget_exceeded", "killed": "run_killed"}

_any = msgspec.msgpack.Decoder().decode


class Sums(msgspec.Struct, frozen=True, array_like=True):
    """A run when it ended."""

    episode: int
    spent_nusd: int
    calls: int


class Open(msgspec.Struct, frozen=True, array_like=True):
    """A tool call whose result has not come. call: the call that asked for it."""

    call: str
    id: str
    name: str
    at: float


Rows = Sequence[tuple[str, bytes]]


class Folding:
    """Adds entries to a board. Made from its rows, however they were cut into writes."""

    def __init__(
        self, rows: Rows = (), sections: Mapping[str, Section] | None = None, watch: Standings | None = None
    ) -> None:
        """watch: is told whose account moved."""
        self.board = Board(rows)
        self._ended = Kept("ended/", Sums, ENDED_MOST, rows)
        self._open = Kept("tools/", list[Open], CALLING_MOST, rows)
        self._sections = sections or {}
        self._watch = watch
        for family, words in ((families.TOKENS_CORRECTED, TYPES), (families.LEDGER_EVENTS, EVENTS)):
            for word in words:
                self.board.add(family, (word,), 0)  # a query finds a number, also where nothing happened
        self.board.add(families.OVERRUN, (), 0)

    def fold(self, entries: Sequence[Entry], changes: Changes) -> None:
        """Entries in their order. Raises StoreFailed where the ledger can't be asked for what they concern."""
        for entry in entries:
            for change in changes.of([entry]):
                self._change(change)
                if self._watch is not None:
                    self._watch.note(change)
            if entry.kind in ("end", "kill"):
                self._end(entry)
            elif entry.kind in ("limit", "threshold"):
                self.board.add(families.LEDGER_EVENTS, (entry.kind,))

    def changed(self) -> dict[str, bytes | None]:
        """Rows that differ from what was written last; after this they count as written."""
        return {**self.board.changed(), **self._ended.changed(), **self._open.changed()}

    # ----------------------------------------------------------------------- a call

    def _change(self, change: Change) -> None:
        call, before = change.call, change.before
        whose = self._whose(call, change.run)
        self._money(change, whose)
        self._tokens(call, before, whose)
        if before is None:
            self._count(call, whose)
        else:
            self._late(change)
        if before is None or not (before.results or before.tool_calls):
            self._tools(call, change.run, change.entry.run)
        self._overrun(change)
        told = before is None or (before.usage is None and call.usage is not None)
        section = self._sections.get(call.provider) or section_of(PRESETS.get(call.provider))
        run_id = call.run if change.run is None else change.run.id
        trace = trace_of(call.run, None if change.run is None else change.run.trace_id)
        where = durations.labels(call, section, whose[3], self._known(call.response_model or "", call))
        if where is None:
            return
        if before is None:
            durations.observe(self.board, call, where, (trace, run_id))
        if told:
            durations.observe_tokens(self.board, call, where, (trace, run_id))

    def _whose(self, call: Exchange, run: Run | None) -> tuple[str, str, str, str]:
        key, agent = (run.tenant or NONE, run.agent or NONE) if run is not None else (NONE, NONE)
        return key, agent, call.provider or NONE, self._known(call.request_model, call)

    def _known(self, model: str, call: Exchange) -> str:
        """A model's name, once one of its calls was charged at a price; a caller can't make one up."""
        if call.cost_source in PRICED and call.cost_nusd is not None:
            return model
        return model if self.board.has_place("model", model) else OTHER

    def _money(self, change: Change, whose: tuple[str, ...]) -> None:
        cost = _amount(change.call.cost_nusd)
        had = 0 if change.before is None else _amount(change.before.cost_nusd)
        was = whose if change.before is None else self._whose(change.before, change.run)
        if was == whose:
            self._pay(whose, max(0, cost - had), max(0, had - cost))
        else:  # booked elsewhere by now: back there, anew here
            self._pay(was, 0, had)
            self._pay(whose, cost, 0)

    def _pay(self, whose: tuple[str, ...], cost: int, back: int) -> None:
        if cost or back:  # both, so that one can be taken from the other, label by label
            self.board.add(families.COST, whose, cost)
            self.board.add(families.CORRECTED, whose, back)

    def _tokens(self, call: Exchange, before: Exchange | None, whose: tuple[str, ...]) -> None:
        now, then = _counts(call), _counts(before)
        for kind, count, had in zip(TYPES, now, then, strict=True):
            if count > had:
                self.board.add(families.TOKENS_USED, (*whose, kind), count - had)
            elif had > count:
                self.board.add(families.TOKENS_CORRECTED, (kind,), had - count)

    def _count(self, call: Exchange, whose: tuple[str, str, str, str]) -> None:
        """What is counted once, when the call ends."""
        add = self.board.add
        add(families.REQUESTS, (*whose, _word(call.outcome, OUTCOMES)))
        for attempt in call.attempts:
            model = whose[3] if attempt.model == call.request_model else self._known(attempt.model, call)
            add(families.ATTEMPTS, (attempt.provider or NONE, model, result_of(attempt)))
        if call.cost_source == "unknown_model" or call.reason == "price_unknown":
            add(families.PRICE_MISSING, whose[2:])
        if call.estimated or call.cost_source in GUESSED:
            add(families.ESTIMATED, whose[2:])
        if call.outcome == "refused" and call.limited is not None:
            scope = _word(call.limited.scope.partition(":")[0], SCOPES)
            add(families.DENIED, (scope, _word(call.reason, REASONS)))
        if call.outcome == "cut":
            add(families.CUT, (_word(call.reason, REASONS),))
        for event in _events(call):
            add(families.LEDGER_EVENTS, (event,))
        if call.reserve_s > 0:
            self.board.observe(families.RESERVE, (), scaled(call.reserve_s, families.RESERVE.scale))

    def _late(self, change: Change) -> None:
        if change.entry.kind == "correct":
            self.board.add(families.LEDGER_EVENTS, ("correct",))
        elif change.before is not None and change.before.cost_source == "presumed" != change.call.cost_source:
            self.board.add(families.LEDGER_EVENTS, ("trueup",))

    def _overrun(self, change: Change) -> None:
        if change.entry.kind == "correct":  # no call wrote past its hold here
            return
        more = _over(change.call) - _over(change.before)
        if more > 0:
            self.board.add(families.OVERRUN, (), more)
            self.board.add(families.LEDGER_EVENTS, ("overrun",))

    # ----------------------------------------------------------------------- tools

    def _tools(self, call: Exchange, run: Run | None, key: str) -> None:
        """Joins results with the tool calls that asked for them, as `core/tools.py` does."""
        if not (call.results or call.tool_calls):
            return
        waiting = list(self._open.get(key) or ())
        agent = run.agent or "" if run is not None else ""
        for result in call.results:
            same = [one for one in waiting if one.id == (result.tool_call_id or f"name {result.name}")]
            if same:  # of the latest answer that used this id its first
                one = next(each for each in same if each.call == same[-1].call)
                waiting.remove(one)
                self._tool_done(one, call.started_at, agent, result.is_error)
        waiting += [
            Open(call.call_id, tool.id or f"name {tool.name}", _tool(tool), call.ended_at) for tool in call.tool_calls
        ]
        if waiting:
            self._open.put(key, waiting[-OPEN_MOST:])
        else:
            self._open.drop(key)

    def _tool_done(self, one: Open, at: float, agent: str, failed: bool) -> None:
        family = families.TOOL_DURATION
        labels = (one.name, "function", agent, names.TOOL_ERROR if failed else "")
        self.board.observe(family, labels, scaled(max(0.0, at - one.at), family.scale))

    # ----------------------------------------------------------------------- the end of a run

    def _end(self, entry: Entry) -> None:
        """An episode ended: what the run did since its last end is observed, so that sums add up."""
        data = _any(entry.data)
        if "at_end" not in data:
            return
        run = msgspec.convert(data["at_end"], Run)
        self._open.drop(entry.run)
        if self._watch is not None:
            self._watch.ended(entry.run)
        last = self._ended.get(run.key) or Sums(0, 0, 0)
        self._ended.put(run.key, Sums(run.episode, run.own_spent_nusd, run.calls))
        if last.episode >= run.episode:  # killed after it had ended
            return
        outcome = _word(run.outcome or "", RUN_OUTCOMES)
        labels = (run.agent or NONE, outcome)
        began = run.episode_at or run.started_at
        lasted = max(0.0, (run.ended_at or entry.at) - began)
        trace = trace_of(run.key, run.trace_id)

        def observe(family: Family, values: tuple[str, ...], amount: int) -> None:
            self.board.observe(family, values, amount, Exemplar(trace, run.id, amount, entry.at))

        self.board.add(families.FINISHED, labels)
        observe(families.RUN_COST, labels, max(0, run.own_spent_nusd - last.spent_nusd))
        observe(families.RUN_STEPS, labels, max(0, run.calls - last.calls))
        observe(families.RUN_DURATION, labels, scaled(lasted, families.RUN_DURATION.scale))
        failure = RUN_ERRORS.get(outcome, "")
        observe(families.AGENT_DURATION, (run.agent or "", failure), scaled(lasted, families.AGENT_DURATION.scale))


# --------------------------------------------------------------------------- words and numbers


def result_of(attempt: Attempt) -> str:
    """How a try at a provider went: one of RESULTS, or `other`."""
    status = attempt.status
    if attempt.outcome != "upstream_error":
        return _word(attempt.outcome, RESULTS)
    if status is None or status < 400:
        return "connection_error" if status is None else "broken"
    if status == 429:
        return "rate_limited"
    if status in (503, 529):
        return "overloaded"
    return "server_error" if status >= 500 else "client_error"


def _word(word: str, known: Iterable[str]) -> str:
    return word if word in known else OTHER


def _tool(tool: ToolCall) -> str:
    return tool.name if tool.known else OTHER  # what nobody offered, the model made up


def _amount(value: int | None) -> int:
    return min(value or 0, AMOUNT_MOST)  # as the ledger counts it in its run


def _counts(call: Exchange | None) -> tuple[int, ...]:
    usage = None if call is None else call.usage
    if usage is None:
        return (0,) * len(TYPES)
    told = (
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
        usage.reasoning_tokens,
    )  # fmt: skip
    return tuple([_amount(value) for value in told])


def _over(call: Exchange | None) -> int:
    if call is None or call.hold_nusd <= 0:
        return 0
    return max(0, _amount(call.cost_nusd) - call.hold_nusd)


def _events(call: Exchange) -> list[str]:
    found = ["clamped"] if call.clamped is not None else []
    if call.cost_source == "presumed":
        found.append("presumed")
        if call.reason in SWEPT:
            found.append("sweep")
    elif call.cost_source == "refused":
        found += ["void"] if call.attempts else []
    else:
        found.append("settle")
    return found
