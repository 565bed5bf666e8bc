"""A call's order to the ledger, and what a denial means in words for its caller."""

from __future__ import annotations

from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.live import killed
from gateway.core.refusal import usd
from gateway.core.types import Denied, Refusal

CODES = {"nusd": "insufficient_quota"}
# Kinds of accounts and the words of `details.scope` (http.md section 3).
NAMED = frozenset({"agent", "user", "key"})


def scope_of(account: str) -> str:
    """`run`, `agent:NAME`, `user:NAME`, `key:NAME` or `global`."""
    kind, _, rest = account.partition("/")
    return f"{kind}:{rest.partition('/')[0]}" if kind in NAMED else kind


def explain(denied: Denied, run_id: str, url: str | None) -> Refusal:
    """The refusal that a denied order becomes: fact, don't, do instead."""
    if denied.reason == "closed":
        return killed(denied.why, run_id)
    if denied.reason != "limit" or denied.balance is None:
        return overloaded(run_id)
    balance = denied.balance
    limit, scope = balance.limit or 0, scope_of(denied.account)
    owner = denied.account.split("/")[1]
    whose = (
        "This run"
        if scope == "run" and owner.rpartition("~")[2] == run_id
        else f"The budget of {scope} {owner}".rstrip()
    )
    held = f", ${usd(balance.held)} more is held by calls in flight" if balance.held else ""
    return Refusal(
        402,
        CODES.get(denied.unit, f"limit_{denied.unit}"),
        f"{whose} has spent ${usd(balance.spent)} of its ${usd(limit)} limit{held}; "
        f"this call needs up to ${usd(denied.needed)}. "
        "Don't retry: it will be refused again. Finish with what you have, or ask the person who runs you to raise the "
        f"budget (meterbox budget {run_id}).",
        run_id=run_id,
        scope=scope,
        unit="usd" if denied.unit == "nusd" else denied.unit,
        limit=balance.limit,
        spent=balance.spent,
        held=balance.held,
        needed=denied.needed,
        url=url,
    )


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
        "store_unavailable",
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
