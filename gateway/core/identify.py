"""Whose call is it? What a caller says of itself, else what its conversation continues (design.md section 3).

Invariant: the order path, header, client header, body, traceparent, inferred; the first that says anything wins. Labels
are hints: they name and may lower a limit, never raise one. What never enters: a secret, a store, a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from urllib.parse import unquote

from xxhash import xxh3_128_hexdigest

from gateway.core.errors import Undecodable
from gateway.core.index import Index, Match
from gateway.core.life import trace_id
from gateway.core.types import NUSD, Call, Inbound, Key, Labels, RunFacts

__all__ = ["Index", "Match", "identify", "labels_of", "named", "run_key"]

_RUN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# W3C Trace Context section 3.2: version 00 has exactly four fields, later ones may have more; ff is forbidden
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_OWN = "x-meterbox-"
_MOST_LABEL = 256  # characters of an agent's, a user's or a session's name
_MOST_NUSD = 2**63 - 1  # what a ledger's integer column holds: more is no limit at all

# Step 3, in this order (design.md section 3): headers that clients send already.
_CLIENT_HEADERS = (
    "helicone-session-id",
    "x-litellm-session-id",
    "x-litellm-trace-id",
    "x-portkey-trace-id",
    "x-claude-code-session-id",
    "session_id",
    "session-id",
    "thread-id",
    "conversation_id",
    "x-session-id",
    "x-session-affinity",
    "agent-session-id",
)
_CONTROL = frozenset(
    _OWN + name for name in ("run-id", "agent", "user", "session", "parent-run-id", "limit-usd", "key")
)
_PLAIN = frozenset(("x-stainless-retry-count", "originator", "user-agent"))  # what most calls have, and no more
_WANTED = frozenset((*_CLIENT_HEADERS, *_CONTROL, *_PLAIN, "baggage", "helicone-user-id", "traceparent"))
_NOTHING = Labels()


def labels_of(headers: Sequence[tuple[str, str]], run_in_path: str | None) -> Labels:
    """What the caller says of itself. Names in lower case. Raises Undecodable (400) for a control header that is
    repeated or has no sense; what other programs send is only left out where it has none."""
    said: dict[str, str] = {}
    for name, value in headers:
        if name in _WANTED:
            if name in said:
                _repeated(name, said)
            else:
                said[name] = value
    if run_in_path is None and said.keys() <= _PLAIN:
        if not said:
            return _NOTHING
        return Labels(retry=_repeats(said.get("x-stainless-retry-count")), client=_client(said.get))
    return _read(said.get, run_in_path)


def _repeated(name: str, said: dict[str, str]) -> None:
    if name in _CONTROL:
        raise Undecodable(f"{name} is given twice")
    if name == "traceparent":
        said[name] = ""  # more than one is as good as none (W3C Trace Context section 3.2)


def _read(get: Callable[[str], str | None], run_in_path: str | None) -> Labels:
    run_id, source = run_in_path, "path"
    if run_id is not None:
        _legal("the run id in the path", run_id)
    if (named := get("x-meterbox-run-id")) is not None:
        _legal("x-meterbox-run-id", named)
        if run_id is None:
            run_id, source = named, "header"
    if (parent := get("x-meterbox-parent-run-id")) is not None:
        _legal("x-meterbox-parent-run-id", parent)
    limit = get("x-meterbox-limit-usd")
    trace, span = _trace(get("traceparent"))
    return Labels(
        run_id=run_id,
        run_source=source if run_id is not None else "",
        client_session=_client_session(get),
        traceparent=trace,
        parent_span=span,
        parent_run_id=parent,
        agent=_label(get, "x-meterbox-agent"),
        user=_label(get, "x-meterbox-user") or _foreign(get("helicone-user-id")),
        session=_label(get, "x-meterbox-session"),
        limit_nusd=_nusd(limit) if limit is not None else None,
        retry=_repeats(get("x-stainless-retry-count")),
        client=_client(get),
    )


def _legal(where: str, run_id: str) -> None:
    if _RUN_ID.fullmatch(run_id) is None:
        raise Undecodable(f"{where}: a run id is 1 to 128 of the characters A-Z a-z 0-9 . _ : -")


def _label(get: Callable[[str], str | None], name: str) -> str | None:
    value = get(name)
    if value is None or not (value := value.strip()):
        return None
    if len(value) > _MOST_LABEL or not value.isprintable():
        raise Undecodable(f"{name}: at most {_MOST_LABEL} printable characters")
    return value


def _foreign(value: str | None) -> str | None:
    """A name from somebody else's header: never a reason to refuse."""
    if value is None or not (value := value.strip()):
        return None
    return value if len(value) <= _MOST_LABEL and value.isprintable() else _stand_in(value)


def _stand_in(value: str) -> str:
    """A legal id for a name that is none, the same each time, so that the session holds together."""
    return "s_" + xxh3_128_hexdigest(value.encode("utf-8", "surrogatepass"))


def _as_id(value: str) -> str:
    return value if _RUN_ID.fullmatch(value) else _stand_in(value)


def _client_session(get: Callable[[str], str | None]) -> str | None:
    for name in _CLIENT_HEADERS:
        value = get(name)
        if value and (value := value.strip()):
            return _as_id(value)
    baggage = get("baggage")
    return _from_baggage(baggage) if baggage and "session.id" in baggage else None


def _from_baggage(baggage: str) -> str | None:
    """W3C Baggage section 3.2: members parted by commas, properties by semicolons, values percent-encoded."""
    for member in baggage.split(","):
        name, _, value = member.partition(";")[0].partition("=")
        if name.strip() == "session.id" and (value := unquote(value.strip())):
            return _as_id(value)
    return None


def _trace(value: str | None) -> tuple[str | None, str | None]:
    if not value:
        return None, None
    found = _TRACEPARENT.fullmatch(value.strip())
    if found is None or (value.startswith("00") and found[3]):
        return None, None
    return found[1], found[2]


def _nusd(text: str) -> int:
    """An exact amount of dollars in nano-dollars, rounded down: a caller may only lower its limit."""
    text = text.strip()
    amount = None
    if len(text) <= 64 and text.isascii() and "_" not in text:
        try:
            amount = Decimal(text)
        except InvalidOperation:
            amount = None
    if amount is None or not amount.is_finite() or amount < 0:
        raise Undecodable("x-meterbox-limit-usd: a finite amount of dollars, 0 or more")
    if not amount or amount.adjusted() < -9:
        return 0
    if amount.adjusted() > 10:
        return _MOST_NUSD
    over, under = amount.as_integer_ratio()
    return min(_MOST_NUSD, over * NUSD // under)


def _repeats(value: str | None) -> bool:
    return value is not None and value.isdecimal() and len(value) < 8 and int(value) > 0


def _client(get: Callable[[str], str | None]) -> str:
    if (get("originator") or "").startswith("codex_"):
        return "codex"
    return "claude-code" if (get("user-agent") or "").startswith("claude-cli/") else ""


def run_key(key_name: str | None, run_id: str) -> str:
    """How the ledger names a run: with virtual keys, each key has run ids of its own."""
    return f"{key_name}~{run_id}" if key_name else run_id


def identify(inbound: Inbound, call: Call, index: Index, new_id: Callable[[str], str]) -> RunFacts:
    """The run that a call belongs to. `new_id("run")` makes the id of one that nothing matched."""
    labels, key = inbound.labels, inbound.key
    name = key.name if key is not None else ""
    run_id, source = named(labels, call)
    if run_id is not None:
        whole = run_key(name, run_id)
    else:
        whole, source = _continued(inbound, call, index, lambda: run_key(name, new_id("run")))
        run_id = whole[len(name) + 1 :] if name else whole
    return RunFacts(
        key=whole,
        id=run_id,
        tenant=name,
        source=source,
        parent=run_key(name, labels.parent_run_id) if labels.parent_run_id else None,
        agent=(key.agent if key is not None else None) or labels.agent,
        user=(key.user if key is not None else None) or labels.user,
        session=labels.session,
        trace_id=labels.traceparent or trace_id(whole),
        fixed=_fixed(key) if key is not None else "",
        parent_span=labels.parent_span,
    )


def _fixed(key: Key) -> str:
    return " ".join([word for word, said in (("agent", key.agent), ("user", key.user)) if said is not None])


def named(labels: Labels, call: Call) -> tuple[str | None, str]:
    """Steps 1 to 5, as far as they name the run by itself."""
    if labels.run_id is not None:
        return labels.run_id, labels.run_source
    if labels.client_session is not None:
        return labels.client_session, "client_header"
    if call.lineage.body_session:
        return _as_id(call.lineage.body_session), "body"
    if call.lineage.previous is None and labels.traceparent is not None:
        return labels.traceparent, "traceparent"
    return None, ""


def _continued(inbound: Inbound, call: Call, index: Index, fresh: Callable[[], str]) -> tuple[str, str]:
    """The run key by what came before: a response that it points to (step 4), or the conversation itself (step 6)."""
    tenant, previous = inbound.tenant, call.lineage.previous
    if previous is not None:
        known = index.owner(tenant, previous)
        if known is None:
            known = fresh()
            index.own(tenant, previous, known)
        return known, "body"
    if inbound.labels.retry and (failed := index.retried(tenant, call, inbound.at)) is not None:
        return failed, "inferred"
    match = index.find(tenant, call, inbound.body)
    return (match.run_key if match is not None else fresh()), "inferred"
