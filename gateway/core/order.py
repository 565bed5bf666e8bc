"""What a denied order means in words for its caller: fact, don't, do instead (http.md section 3).

Invariant: what is held is never called spent; the sentence names the limit, whose it is, and when it begins anew.
What never enters: deciding anything.
"""

from __future__ import annotations

from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.ledger import names
from gateway.core.ledger.engine import LAST_USED
from gateway.core.live import killed
from gateway.core.refusal import rfc3339, usd
from gateway.core.types import Balance, Denied, Limited, Refusal

DON_T = "Don't retry: it will be refused again"
UNAVAILABLE = "store_unavailable"
# What to do instead, where it isn't simply to finish.
INSTEAD = {
    "tool_calls": "Answer from the results that you have, without another tool",
    "calls": "Put what you have into an answer; no further call will be let through",
}


def explain(denied: Denied, run_id: str, url: str | None) -> Refusal:
    """The refusal that a denied order becomes."""
    if denied.reason == "closed":
        return killed(denied.why, run_id)
    if denied.reason != "limit" or denied.balance is None:
        return overloaded(run_id)
    balance = denied.balance
    return Refusal(
        402,
        code_of(denied.unit),
        _sentence(denied, balance, run_id),
        run_id=run_id,
        scope=names.scope_of(denied.account),
        unit="usd" if denied.unit == "nusd" else denied.unit,
        limit=balance.limit,
        spent=balance.spent,
        held=balance.held,
        needed=denied.needed,
        resets_at=denied.resets_at,
        url=url,
    )


def limited(denied: Denied) -> Limited | None:
    """The limit that stood in the way, for the call's record; None where none did."""
    balance = denied.balance
    if denied.reason != "limit" or balance is None:
        return None
    return Limited(
        account=denied.account,
        scope=names.scope_of(denied.account),
        unit=denied.unit,
        limit=balance.limit,
        spent=balance.spent,
        held=balance.held,
        needed=denied.needed,
        resets_at=denied.resets_at,
    )


def code_of(unit: str) -> str:
    """The code of a refusal for lack of this unit."""
    return "insufficient_quota" if unit == "nusd" else f"limit_{unit}"


def _sentence(denied: Denied, balance: Balance, run_id: str) -> str:
    fact = _fact(denied, balance, _whose(denied.account, run_id), _window(denied.account))
    last = " Its last call has been made." if denied.why == LAST_USED else ""
    until = f" until {rfc3339(denied.resets_at)}, when its limit begins anew" if denied.resets_at is not None else ""
    instead = INSTEAD.get(denied.unit, "Finish with what you have")
    name = names.read(denied.account)
    whose = f" {name.owner.rpartition('~')[2]}" if name.kind == "run" else ""
    return (
        f"{fact}{last} {DON_T}{until}. {instead}, or ask the person who runs you to raise the budget "
        f"(meterbox budget{whose})."
    )


def _fact(denied: Denied, balance: Balance, whose: str, window: str) -> str:
    limit, spent, held = balance.limit or 0, balance.spent, balance.held
    if denied.unit == "nusd":
        more = f", ${usd(held)} more is held by calls in flight" if held else ""
        return f"{whose} has spent ${usd(spent)} of its ${usd(limit)} limit{window}{more}; " + (
            f"this call needs up to ${usd(denied.needed)}."
        )
    if denied.unit == "tokens":
        more = f", {held} more are held by calls in flight" if held else ""
        return f"{whose} has used {spent} of its {limit} tokens{window}{more}; this call needs up to {denied.needed}."
    if denied.unit == "calls":
        more = f", {held} more in flight" if held else ""
        return f"{whose} has made {spent} of its {limit} calls{window}{more}."
    if denied.unit == "tool_calls":
        return f"{whose} has asked for {spent} tool calls{window}; its limit is {limit}."
    if denied.unit == "seconds":
        doing = "has been going for" if denied.account.startswith("run/") else "has been calling for"
        return f"{whose} {doing} {spent} seconds{window}; its limit is {limit}."
    return f"{whose} has used {spent} of its {limit} {denied.unit}{window}."


def _whose(account: str, run_id: str) -> str:
    name = names.read(account)
    if name.kind == "global":
        return "The budget of all runs together"
    if name.kind != "run":
        return f"The budget of {name.kind} {name.owner}"
    shown = name.owner.rpartition("~")[2]  # a tenant's own id, as its caller knows it
    return "This run" if shown == run_id else f"The budget of the parent run {shown}"


def _window(account: str) -> str:
    """The window in words: of the hour, day or month that its label names."""
    label, _, zone = names.read(account).window.partition("@")
    if not label:
        return ""
    per = {7: "month", 10: "day"}.get(len(label), "hour")
    return f" of the {per} {label} ({zone.replace(':', '/') or 'UTC'})"


def overloaded(run_id: str | None) -> Refusal:
    """Too many calls wait in line."""
    return Refusal(
        503,
        "overloaded",
        "Too many calls wait for this budget right now. Retry in a moment.",
        run_id=run_id,
        retryable=True,
        retry_after_s=2,
    )


def unavailable(why: str, run_id: str | None) -> Refusal:
    """The ledger can't be written: nothing is served unmetered (ledger.md section 6)."""
    return Refusal(
        503,
        UNAVAILABLE,
        f"The gateway's ledger can't be written ({why}), so no call is let through. Retry in a moment.",
        run_id=run_id,
        retryable=True,
        retry_after_s=2,
    )


def turned_away(failure: Undecodable | StoreFailed) -> Refusal:
    """A call that never came to have a run: not understood, or the ledger is out of reach."""
    if isinstance(failure, Undecodable):
        return Refusal(failure.status, failure.code, str(failure))
    return unavailable(str(failure), None)
