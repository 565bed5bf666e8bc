"""Names of accounts: `kind/name/unit`, with the label of its window where it has one.

Invariant: what is spelled here is read back here, whatever an agent or a user is called. What never enters: balances.
"""

from __future__ import annotations

from msgspec import Struct

EVERYBODY = "all"  # the name in `global/all/unit`: there is only one


class Name(Struct, frozen=True):
    """An account's name, taken apart. kind: run | agent | user | key | global; window: its label, "" without one."""

    kind: str
    owner: str
    unit: str
    window: str = ""


def spell(kind: str, owner: str, unit: str) -> str:
    """The account without its window. A slash in an owner's name is escaped: it parts the words of a name."""
    if "/" in owner or "%" in owner:
        owner = owner.replace("%", "%25").replace("/", "%2F")
    return f"{kind}/{owner}/{unit}"


def read(account: str) -> Name:
    """The parts of an account's name (of a gate: without unit)."""
    kind, _, rest = account.partition("/")
    owner, _, rest = rest.partition("/")
    unit, _, window = rest.partition("/")
    if "%" in owner:
        owner = owner.replace("%2F", "/").replace("%25", "%")
    return Name(kind, owner, unit, window)


def scope_of(account: str) -> str:
    """The word of `details.scope` (http.md section 3): run, agent:NAME, user:NAME, key:NAME or global."""
    name = read(account)
    return f"{name.kind}:{name.owner}" if name.kind in ("agent", "user", "key") else name.kind
