"""How a hold ends: settled, void or presumed, and what may still be said of it later (ledger.md sections 3 and 6).

Invariant: a hold leaves HELD once and hits all its accounts in the same step; when the outcome is unknown the whole
hold is charged, never zero; each call stands in the journal once (`call`), and what was learnt later as `amend`.
What never enters: admission (`ledger`), clocks, I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Final

import msgspec

from gateway.core.ledger import limits, runs
from gateway.core.ledger.book import AMOUNT_MOST, HELD, PRESUMED, SETTLED, VOID, Book, Hold, Row, whole
from gateway.core.ledger.engine import expire_line, send_hopeless_home, serve_line, step_of
from gateway.core.types import COUNTED, Attempt, Exchange, Finding, Settled

SWEEP_MOST = 500  # holds presumed, and runs ended, in one sweep: a batch stays short
_TOLD: Final = frozenset({"price_list", "provider", "override", "estimate"})  # sources that state a cost
_ROW_KIND: Final = {SETTLED: "settle", VOID: "void", PRESUMED: "presumed"}


def conclude(book: Book, now: float, hold: Hold, state: str, amounts: dict[str, int]) -> None:
    """Ends a hold (or trues up a presumed one) at `amounts` per unit, on all its accounts at once."""
    late = hold.state == PRESUMED
    kind = "trueup" if late else _ROW_KIND[state]
    joined = limits.join(book, hold) if not late else limits.joined(hold)
    charged = _charged(now, hold, state, amounts)
    touched = []
    for name, unit in hold.accounts:
        account = book.account(name)
        delta = charged[unit] - hold.charged.get(unit, 0)
        unheld = unit in COUNTED or name in joined
        if not late and name not in joined:
            account.held -= hold.held[unit]
            account.open -= 1
            book.line.settled(name, now)
        account.spent += delta
        account.overrun += limits.beyond(account) if unheld else max(0, charged[unit] - hold.held[unit])
        if account.last == hold.id and state == VOID:
            account.last = None  # nothing was said in it: another call may be the last
        if delta > 0:
            limits.note_marks(book, now, account)
        book.dirty.rows.append(Row(hold.id, name, unit, kind, delta, now))
        book.dirty.accounts.add(name)
        touched.append(name)
    hold.charged = charged
    hold.state = state
    book.dirty.holds.add(hold.id)
    if book.line.parked:
        for name in list(touched):
            touched += send_hopeless_home(book, now, name)
        serve_line(book, now, touched)


def _charged(now: float, hold: Hold, state: str, amounts: dict[str, int]) -> dict[str, int]:
    """What each unit of the hold is charged in the end."""
    if state == PRESUMED:  # also where nobody held a call, because it was limited later
        amounts = {"calls": 1, **amounts}
    charged = {unit: min(max(0, amounts.get(unit, 0)), AMOUNT_MOST) for unit in hold.held}
    if "seconds" in charged:  # of the call itself; what is said later of it changes nothing
        until = min(now, hold.deadline_at)  # nobody waited longer: a gateway that is down lets no seconds pass
        late = hold.state == PRESUMED
        charged["seconds"] = hold.charged["seconds"] if late else max(0, ceil(until - hold.created_at))
    return charged


def amounts_presumed(hold: Hold) -> dict[str, int]:
    """The whole hold; a place in flight is not spent by anyone."""
    return {unit: 0 if unit == "inflight" else amount for unit, amount in hold.held.items()}


def amounts_told(exchange: Exchange) -> dict[str, int]:
    """What a call that told its usage used, by unit."""
    usage = exchange.usage
    told = {"tool_calls": len(exchange.tool_calls)}
    if exchange.cost_nusd is not None:
        told["nusd"] = exchange.cost_nusd
    if usage is not None and (usage.input_tokens is not None or usage.output_tokens is not None):
        beside = sum(tokens_in + tokens_out for _, tokens_in, tokens_out in usage.extra)
        told["tokens"] = (usage.input_tokens or 0) + (usage.output_tokens or 0) + beside
    return told


def lost_call(hold: Hold, reason: str, now: float) -> Exchange:
    """What the journal says of a call whose process died, or that outlived its deadline: all that the order told."""
    dialect, provider, operation, model, stream = hold.about
    cost = hold.held.get("nusd")
    return Exchange(
        call_id=hold.call_id, run=hold.run, step=hold.step, dialect=dialect, provider=provider, operation=operation,
        request_model=model, stream=stream, started_at=hold.created_at, ended_at=now, outcome="unknown", reason=reason,
        cost_nusd=cost, cost_source="presumed", hold_nusd=cost or 0, tenant=hold.tenant,
        attempts=[Attempt(provider, model, None, "unknown", cost, hold.created_at, now)],
    )  # fmt: skip


# --------------------------------------------------------------------------- the socket's words


def settle(
    book: Book,
    now: float,
    order_id: str | None,
    actual: dict[str, int] | None,
    exchange: Exchange,
    findings: Sequence[Finding],
) -> Settled:
    """Ends a hold as `exchange.cost_source` says and writes its call. Sets the exchange's step, and a presumed cost.

    A call that held nothing gets a row of its own without accounts: so a repeat is known, after a restart too.
    """
    hold = book.hold(order_id or f"{exchange.call_id}/0")
    if hold is None:
        hold = _row_without_accounts(book, now, order_id, exchange)
    late = hold.state == PRESUMED
    moved = _move(book, now, hold, actual, exchange)
    if moved or not hold.told:
        _tell(book, now, hold, exchange, findings)
    exchange.step = hold.step
    return _settled(book, hold, late and moved)


def _row_without_accounts(book: Book, now: float, order_id: str | None, exchange: Exchange) -> Hold:
    hold = Hold(
        id=order_id or f"{exchange.call_id}/0", call_id=exchange.call_id, run=exchange.run, tenant=exchange.tenant,
        step=step_of(book, exchange.call_id, order_id or "", exchange.run, now), instance=book.instance,
        state=VOID if exchange.cost_source == "refused" else SETTLED, created_at=now, deadline_at=now,
        accounts=[], held={},
    )  # fmt: skip
    book.holds[hold.id] = hold
    book.dirty.holds.add(hold.id)
    run = book.run(exchange.run)
    if run is not None and run.ended_at is not None and exchange.started_at > run.ended_at:
        runs.touch(book, runs.facts_of(exchange.run, ""), now)
    return hold


def _move(book: Book, now: float, hold: Hold, actual: dict[str, int] | None, exchange: Exchange) -> bool:
    """The table of ledger.md section 3; False: this pair of state and event changes nothing."""
    if hold.state not in {HELD, PRESUMED}:
        return False
    if exchange.cost_source == "refused":
        # a call that was sent counts as one, even though nobody bills it
        conclude(book, now, hold, VOID, {"calls": (actual or {}).get("calls", 0)})
        return True
    if exchange.cost_source == "presumed":
        if hold.state == PRESUMED:
            return False
        # what the model was seen to emit is known, whatever the call cost
        seen = {"tool_calls": (actual or {}).get("tool_calls", 0)}
        conclude(book, now, hold, PRESUMED, {**amounts_presumed(hold), **seen})
        hold.response_id = whole(exchange.response_id) if exchange.response_id is not None else None
        return True
    given = actual or {}
    amounts = amounts_presumed(hold)  # a unit that nobody told is charged as held; money is what the exchange says
    if "nusd" in amounts:
        amounts["nusd"] = exchange.cost_nusd or 0
    amounts.update(given)
    conclude(book, now, hold, SETTLED, amounts)
    return True


def _tell(book: Book, now: float, hold: Hold, exchange: Exchange, findings: Sequence[Finding]) -> None:
    """Writes the call (or what is better known of it) into the journal and counts it in its run."""
    _complete(hold, exchange, findings)
    run = runs.known(book, hold.run, now)
    tally = runs.tally_of(exchange)
    runs.count(run, tally, hold.tally)
    if not hold.told or exchange.ended_at >= run.last_at:  # what is learnt of an old call makes it no latest one
        runs.note_latest(run, exchange, now)
    book.dirty.runs.add(run.key)
    book.dirty.holds.add(hold.id)
    if hold.told:  # every field, also what is empty by now: it is laid over what was told before
        book.write(now, "amend", hold.run, hold.call_id, msgspec.structs.asdict(exchange))
    else:
        book.write(now, "call", hold.run, hold.call_id, exchange)
    book.dirty.findings.extend(findings)
    hold.tally = tally
    hold.told = True


def _complete(hold: Hold, exchange: Exchange, findings: Sequence[Finding]) -> None:
    exchange.step = hold.step
    held = hold.held.get("nusd")
    if held is not None:
        exchange.hold_nusd = held
        if exchange.cost_nusd is not None or hold.state == PRESUMED:
            exchange.cost_nusd = hold.charged["nusd"]  # what is charged is what is shown
    if findings and not exchange.findings:
        exchange.findings = [msgspec.to_builtins(finding) for finding in findings]


def _settled(book: Book, hold: Hold, late: bool) -> Settled:
    balances = tuple([book.account(name).balance() for name, _ in hold.accounts])
    return Settled(hold.charged.get("nusd"), balances, late, hold.step)


def void(book: Book, now: float, order_id: str) -> Settled | None:
    """Ends an attempt that cannot have been billed, without a word in the journal: its call goes on elsewhere."""
    return _end_quietly(book, now, order_id, VOID)


def presume(book: Book, now: float, order_id: str) -> Settled | None:
    """Ends an attempt of unknown outcome, without a word in the journal: its call goes on elsewhere."""
    return _end_quietly(book, now, order_id, PRESUMED)


def _end_quietly(book: Book, now: float, order_id: str, state: str) -> Settled | None:
    hold = book.hold(order_id)
    if hold is None:
        return None
    late = hold.state == PRESUMED and state == VOID
    if hold.state == HELD or late:
        conclude(book, now, hold, state, amounts_presumed(hold) if state == PRESUMED else {})
    return _settled(book, hold, late)


def true_up(book: Book, now: float, response_id: str, tenant: str, exchange: Exchange) -> Settled | None:
    """The stored response of a presumed call told its usage: `exchange` is the call that fetched it, priced."""
    if exchange.cost_nusd is None or exchange.cost_source not in _TOLD:
        return None
    hold_id = book.shelf.presumed(response_id, tenant)
    hold = book.hold(hold_id) if hold_id is not None else None
    if hold is None or hold.state != PRESUMED:
        return None
    conclude(book, now, hold, SETTLED, {**amounts_presumed(hold), **amounts_told(exchange)})
    found = runs.tally_of(exchange)
    tally = (hold.tally[0], found[1], hold.tally[2], *found[3:]) if hold.tally else found
    run = runs.known(book, hold.run, now)
    runs.count(run, tally, hold.tally)
    hold.tally = tally
    book.dirty.runs.add(run.key)
    book.write(now, "amend", hold.run, hold.call_id, {
        "cost_nusd": exchange.cost_nusd, "cost_source": exchange.cost_source, "usage": exchange.usage,
        "estimated": exchange.estimated,
    })  # fmt: skip
    return _settled(book, hold, True)


def correct(book: Book, now: float, order_id: str, delta: int, why: tuple[str, str, str]) -> Settled:
    """A refund or a provider's correction, once per id. why: reason, actor, id. Never takes more than was charged.

    Raises nothing for an unknown or unfinished reservation: it reports what is, as every pair outside of the table.
    """
    hold = book.hold(order_id)
    if hold is None:
        return Settled(None)
    reason, actor, correction_id = why
    if hold.state not in {SETTLED, VOID} or correction_id in hold.corrections or "nusd" not in hold.charged:
        return _settled(book, hold, False)
    delta = max(-AMOUNT_MOST, min(AMOUNT_MOST, max(-hold.charged["nusd"], delta)))
    hold.charged["nusd"] += delta
    hold.corrections.append(correction_id)
    book.dirty.holds.add(hold.id)
    names = [name for name, unit in hold.accounts if unit == "nusd"]
    note = f"{reason} ({actor}, {correction_id})"
    for name in names:
        account = book.account(name)
        account.spent += delta
        if account.limit is not None:  # what was given back at settle may be used by others by now
            room = account.limit + account.overrun + account.lowered
            account.overrun += max(0, account.spent + account.held - room)
        if delta > 0:
            limits.note_marks(book, now, account)
        book.dirty.rows.append(Row(hold.id, name, "nusd", "correct", delta, now, note))
        book.dirty.accounts.add(name)
    run = runs.known(book, hold.run, now)
    run.own_spent_nusd += delta
    book.dirty.runs.add(run.key)
    data: dict[str, Any] = {"delta_nusd": delta, "reason": reason, "actor": actor, "id": correction_id}
    # its own words in a map of their own: the rest is laid over the call
    book.write(now, "correct", hold.run, hold.call_id, {"cost_nusd": hold.charged["nusd"], "correction": data})
    moved = [other for name in names for other in send_hopeless_home(book, now, name)]
    serve_line(book, now, [*moved, *names])
    return _settled(book, hold, False)


# --------------------------------------------------------------------------- sweep


def expire(book: Book, now: float, idle_s: float) -> int:
    """Presumes holds past lease or deadline, ends idle runs, ends waits without hope. How many it touched."""
    touched = presume_lost(book, now, book.shelf.due(now, SWEEP_MOST), "deadline")
    lively = runs.lively(book)
    for key in book.shelf.idle(now - idle_s, SWEEP_MOST):
        if key not in lively:
            touched += runs.end_idle(book, key, now - idle_s, now)
    return touched + expire_line(book, now)


def presume_lost(book: Book, now: float, hold_ids: Sequence[str], reason: str) -> int:
    """Charges holds that nobody will settle, and lists their calls with all that is known."""
    lost = 0
    for hold_id in hold_ids:
        hold = book.hold(hold_id)
        if hold is None or hold.state != HELD:
            continue
        conclude(book, now, hold, PRESUMED, amounts_presumed(hold))
        if not hold.told:
            _tell(book, now, hold, lost_call(hold, reason, now), ())
        lost += 1
    return lost


def bury(book: Book, now: float, instance: str) -> int:
    """The process of this instance is dead: its holds are charged at once. Ask again until it gives 0."""
    return presume_lost(book, now, book.shelf.held_by(instance, SWEEP_MOST), "lost")
