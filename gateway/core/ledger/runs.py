"""Runs in the ledger: made on first sight, counted call by call, ended when idle, killed, resumed.

Invariant: what a call added to its run's counters is remembered with its hold (`tally`), so telling it again, better,
replaces it and never adds twice. What never enters: balances (`ledger`), identification (`identify`).

How a run ends that nobody ended (`outcome_of`), decided by its latest call when it was idle for `idle_s`:
ok without open tool calls: completed; refused by a limit, or cut by us: stopped_by_limit; the upstream failed, or
another refusal: failed; open tool calls, a client that left, an unknown end, or no call at all: abandoned.
"""

from __future__ import annotations

from typing import Any

from gateway.core.ledger import names
from gateway.core.ledger.book import AMOUNT_MOST, HELD, Book, whole
from gateway.core.types import Exchange, Run, RunFacts

ANCESTORS_MOST = 64  # how deep a run tree may be followed

Tally = tuple[int, ...]  # calls, tool_calls, errors, input, output, cache read, cache write, reasoning, own spent


def gate_of(key: str) -> str:
    """The account that is closed when this run is killed."""
    return f"run/{key}"


def facts_of(key: str, source: str = "api") -> RunFacts:
    """What a bare run key says: with virtual keys it is `key name~id`."""
    tenant, tilde, run_id = key.rpartition("~")
    return RunFacts(key=key, id=run_id, tenant=tenant if tilde else "", source=source)


def make(book: Book, facts: RunFacts, now: float) -> Run:
    """The run of these facts: made on first sight (its parent too), else what is known keeps and gaps are filled."""
    run = book.run(facts.key)
    if run is None:
        run = Run(key=facts.key, id=facts.id, tenant=facts.tenant, source=facts.source, started_at=now, last_at=now)
        run.episode_at = now
        book.runs[facts.key] = run
        book.dirty.runs.add(facts.key)
        _learn(book, run, facts, now)
        _tell_start(book, run, now)
    elif _learn(book, run, facts, now):
        book.dirty.runs.add(facts.key)
    return run


def touch(book: Book, facts: RunFacts, now: float) -> Run:
    """A call of this run came: an ended run begins again as its next episode. A killed one stays killed."""
    run = make(book, facts, now)
    if run.source == "api" and facts.source:
        run.source = facts.source
    if run.state == "ended":
        run.state, run.outcome, run.reason, run.ended_at = "active", None, None, None
        run.episode, run.episode_at = run.episode + 1, now
        _tell_start(book, run, now)
    run.last_at = max(run.last_at, now)
    book.dirty.runs.add(run.key)
    return run


def known(book: Book, key: str, now: float) -> Run:
    """The run of a key that was seen before; made as a bare row if nobody told of it."""
    return book.run(key) or make(book, facts_of(key), now)


def _learn(book: Book, run: Run, facts: RunFacts, now: float) -> bool:
    learnt = False
    for word in ("agent", "user"):
        had, said = getattr(run, word), getattr(facts, word)
        if said is not None and said != had and (had is None or word in facts.fixed):
            setattr(run, word, said)
            learnt = True
    if run.session is None and facts.session is not None:
        run.session, learnt = facts.session, True
    if run.trace_id is None and facts.trace_id is not None:
        run.trace_id, run.parent_span, learnt = facts.trace_id, facts.parent_span, True
    if facts.parent is not None and run.parent is None and not _is_ancestor(book, run.key, facts.parent):
        run.parent = facts.parent
        make(book, facts_of(facts.parent), now)
        learnt = True
    return learnt


def _is_ancestor(book: Book, key: str, start: str) -> bool:
    """Would `start` as a parent of `key` close a circle?"""
    at: str | None = start
    for _ in range(ANCESTORS_MOST):
        if at is None:
            return False
        if at == key:
            return True
        run = book.run(at)
        at = run.parent if run is not None else None
    return True


def _tell_start(book: Book, run: Run, now: float) -> None:
    facts = {
        "id": run.id, "tenant": run.tenant, "source": run.source, "parent": run.parent, "agent": run.agent,
        "user": run.user, "session": run.session, "trace_id": run.trace_id, "episode": run.episode,
        "state": run.state,
    }  # fmt: skip
    book.write(now, "run", run.key, None, facts)


# --------------------------------------------------------------------------- counting


def tally_of(exchange: Exchange) -> Tally:
    """What this call adds to its run. Only what was sent to a provider counts as a call (http.md section 4)."""
    usage = exchange.usage
    tokens = (0, 0, 0, 0, 0)
    if usage is not None:
        tokens = (
            usage.input_tokens or 0,
            usage.output_tokens or 0,
            usage.cache_read_tokens or 0,
            usage.cache_write_tokens or 0,
            usage.reasoning_tokens or 0,
        )
    sent = 1 if exchange.attempts else 0
    failed = 1 if exchange.outcome == "upstream_error" else 0
    told = (sent, len(exchange.tool_calls), failed, *tokens, exchange.cost_nusd or 0)
    return tuple([value if value < AMOUNT_MOST else AMOUNT_MOST for value in told])  # a provider may say any number


def count(run: Run, fresh: Tally, before: Tally) -> None:
    """Replaces what a call had added to the run by what it adds now."""
    if before:
        fresh = tuple(new - old for new, old in zip(fresh, before, strict=True))
    calls, tools, errors, tokens_in, tokens_out, read, write, reasoning, cost = fresh
    run.calls += calls
    run.tool_calls += tools
    run.errors += errors
    run.input_tokens += tokens_in
    run.output_tokens += tokens_out
    run.cache_read_tokens += read
    run.cache_write_tokens += write
    run.reasoning_tokens += reasoning
    run.own_spent_nusd += cost


def note_latest(run: Run, exchange: Exchange, now: float) -> None:
    """Remembers what decides the outcome if no other call follows."""
    run.last_at = max(run.last_at, now)
    run.last_outcome = exchange.outcome
    run.last_finish = whole(exchange.finish_reason or exchange.reason)[:64] or None
    if exchange.attempts:
        run.open_tools = len(exchange.tool_calls)


# --------------------------------------------------------------------------- ends


def outcome_of(run: Run) -> str:
    """The outcome of a run that went idle (the rule stands in the module's docstring)."""
    last = run.last_outcome
    if last == "ok":
        return "abandoned" if run.open_tools else "completed"
    if last == "refused":
        code = run.last_finish or ""
        return "stopped_by_limit" if code == "insufficient_quota" or code.startswith("limit_") else "failed"
    return {"cut": "stopped_by_limit", "upstream_error": "failed"}.get(last, "abandoned")


def lively(book: Book) -> set[str]:
    """Runs that this batch gave a hold, or an active child: no table knows it yet, so that they would be called idle.
    What lapses in a sweep lets orders go that waited for it, and they may have waited for long."""
    found = {hold.run for hold in map(book.holds.__getitem__, book.dirty.holds) if hold.state == HELD}
    for run in map(book.runs.__getitem__, book.dirty.runs):
        if run.parent is not None and run.state == "active":
            found.add(run.parent)
    return found


def end_idle(book: Book, key: str, before: float, now: float) -> bool:
    """Ends one run that the shelf called idle, unless this book knows better."""
    run = book.run(key)
    if run is None or run.state != "active" or run.last_at >= before:
        return False
    _end(book, run, outcome_of(run), "idle", now)
    return True


def end(book: Book, now: float, key: str, state: str, outcome: str | None, reason: str | None) -> Run | None:
    """Moves a run to `state`; None if it is unknown. A repeat changes nothing. `ledger.end_run` moves the gate."""
    run = book.run(key)
    if run is None:
        return None
    if state == "ended" and run.state not in {"ended", "killed"}:
        _end(book, run, outcome or outcome_of(run), reason, now)
    elif state == "killed" and run.state != "killed":
        run.state, run.outcome, run.reason, run.ended_at = "killed", "killed", reason, now
        _tell_change(book, run, "kill", now)
    elif state == "paused" and run.state == "active":
        run.state, run.reason = "paused", reason
        _tell_change(book, run, "transition", now)
    elif state == "active" and run.state != "active":
        if run.ended_at is not None:
            run.episode, run.episode_at = run.episode + 1, now
        run.state, run.outcome, run.reason, run.ended_at = "active", None, None, None
        run.last_at = max(run.last_at, now)
        _tell_change(book, run, "resume", now)
    return run


def _end(book: Book, run: Run, outcome: str, reason: str | None, now: float) -> None:
    run.state, run.outcome, run.reason, run.ended_at = "ended", outcome, reason, now
    _tell_change(book, run, "end", now)


def _tell_change(book: Book, run: Run, kind: str, now: float) -> None:
    book.dirty.runs.add(run.key)
    data: dict[str, Any] = {
        "state": run.state, "outcome": run.outcome, "reason": run.reason, "episode": run.episode,
    }  # fmt: skip
    if run.ended_at is not None:  # whoever reads this later finds a run that may have gone on
        purse = book.account(names.spell("run", run.key, "nusd"))
        data |= {"at_end": run, "spent_nusd": purse.spent, "limit_nusd": purse.limit}
    book.write(now, kind, run.key, None, data)
