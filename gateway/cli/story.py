"""One run told to a tired person: seven questions, each answered in a few lines from what the control plane says.

Invariant: figures are the ledger's own; what is inferred says so; every command names real ids. Texts of clients and
models are made harmless. What never enters: asking the gateway, changing anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from gateway.cli.advice import now_what, once_more, stopped_by, tightest
from gateway.cli.words import amount, count, harmless, instant, moment, money, number, span, table

Item = Mapping[str, Any]

QUESTIONS = (
    "What happened?",
    "What did it cost?",
    "Where did the money go?",
    "Why did it stop?",
    "Is something still running?",
    "Could it happen again?",
    "What do I do now?",
)
TOP = 5
UNIT_OF = {"insufficient_quota": "usd"}  # of a refusal's code; the other limits carry it in their name


@dataclass(frozen=True)
class Facts:
    """What was asked of the control plane about one run, and when."""

    run: Item
    calls: Sequence[Item] = ()
    tools: Sequence[Item] = ()
    children: Sequence[Item] = ()
    held: Sequence[Item] = ()
    budgets: Sequence[Item] = ()
    most: Mapping[str, Any] = field(default_factory=dict)  # by unit: how far the configuration lets a run's limit rise
    now: float = 0.0

    @property
    def refused(self) -> list[Item]:
        """Calls that the gateway itself refused; one that reached no provider costs nothing either, and is none."""
        return [call for call in self.calls if call["outcome"] == "refused" and call["status"] is None]

    @property
    def used_up(self) -> list[Item]:
        """Budgets that will refuse the next call of a run that could go on otherwise."""
        if self.run["state"] not in ("active", "waiting", "paused"):
            return []
        binding = (item for item in self.budgets if item["mode"] != "shadow")
        return [item for item in binding if Decimal(item["spent"]) >= Decimal(item["limit"])]

    @property
    def lasted_s(self) -> float:
        """From its first to its latest call."""
        return max(0.0, instant(self.run["last_at"]) - instant(self.run["started_at"]))


def tell(facts: Facts) -> str:
    """The whole page."""
    answers = (
        _happened(facts), _cost(facts), _went(facts), _stopped(facts), _running(facts), once_more(facts),
        now_what(facts),
    )  # fmt: skip
    parts = []
    for question, answer in zip(QUESTIONS, answers, strict=True):
        lines = [f"  {line}" for text in answer for line in text.split("\n")]
        parts.append("\n".join([question, *lines]))
    return "\n\n".join(parts)


# --------------------------------------------------------------------------- 1


def _happened(facts: Facts) -> Iterator[str]:
    run, calls = facts.run, facts.calls
    who = [f"{word} {harmless(run[word], 60)}" for word in ("agent", "user") if run.get(word)]
    if run.get("parent"):
        who.append(f"a child of {harmless(run['parent'], 140)}")
    state = run["state"] + (
        f", {run['outcome'].replace('_', ' ')}" if run["outcome"] not in (None, run["state"]) else ""
    )
    yield f"Run {harmless(run['run_id'], 140)}{' (' + ', '.join(who) + ')' if who else ''} is {state}."
    yield (
        f"{count(run['calls'], 'call')} and {count(run['tool_calls'], 'tool call')} in {span(facts.lasted_s)} from "
        f"{moment(run['started_at'])}; {number(len(facts.refused))} refused by the gateway, "
        f"{number(run['errors'])} failed at the provider."
    )
    if facts.held:
        yield f"{count(len(facts.held), 'more call is', 'more calls are')} under way."
    used = Counter(tool["name"] for tool in facts.tools)
    if used:
        odd = sum(1 for tool in facts.tools if tool["repeated"])
        wrong = sum(1 for tool in facts.tools if tool["is_error"])
        names = ", ".join(f"{harmless(name, 40)} {times}x" for name, times in used.most_common(TOP))
        yield f"Tools: {names}; {number(odd)} repeated an earlier call, {number(wrong)} ended with an error."
    if calls:
        last = max(calls, key=lambda call: call["step"])
        how = last["outcome"] + (f" ({harmless(last['reason'], 60)})" if last["reason"] else "")
        ago = span(max(0.0, facts.now - instant(last["started_at"])))
        yield f"Its last call, step {last['step']} to {harmless(_model(last), 60)}, {ago} ago: {how}."


# --------------------------------------------------------------------------- 2


def _cost(facts: Facts) -> Iterator[str]:
    run = facts.run
    limit = run["limits"].get("usd")
    of = f" of {money(limit)}" if limit is not None else ", without a limit"
    yield f"{money(run['spent_usd'])} spent{of}; {number(run['input_tokens'] + run['output_tokens'])} tokens."
    if Decimal(run["held_usd"]):
        yield f"{money(run['held_usd'])} more is held by calls under way; it is not spent."
    if Decimal(run["overrun_usd"]):
        yield f"{money(run['overrun_usd'])} of it was charged beyond what had been held (overrun)."
    children = Decimal(run["spent_usd"]) - Decimal(run["own_spent_usd"])
    if children:
        yield f"{money(run['own_spent_usd'])} by its own calls, {money(children)} by its children."
    for source, words in (
        ("presumed", "ended unclear and {are} charged at the most that {they} can cost: {usd}. The bill may be lower"),
        ("estimate", "{are} charged by an estimate, cut by the gateway or settled by hand: {usd}"),
    ):
        found = [call for call in facts.calls if call["cost_source"] == source]
        if found:
            one = len(found) == 1
            forms = {"are": "is" if one else "are", "they": "it" if one else "they"}
            said = words.format(usd=money(sum(Decimal(call["cost_usd"] or 0) for call in found)), **forms)
            yield f"{count(len(found), 'call')} {said}."
    unknown = sum(1 for call in facts.calls if call["cost_usd"] is None)
    if unknown:
        yield f"{count(unknown, 'call')} of unknown cost: no price is known for the model, or no usage was told."


# --------------------------------------------------------------------------- 3


def by_model(calls: Sequence[Item]) -> list[dict[str, Any]]:
    """Calls, tokens and exact dollars of each model, the dearest first."""
    found: dict[str, dict[str, Any]] = {}
    for call in calls:
        if call["cost_source"] == "refused":
            continue
        model = _model(call)
        row = found.setdefault(model, {"model": model, "calls": 0, "input_tokens": 0, "output_tokens": 0, "nusd": 0})
        row["calls"] += 1
        row["input_tokens"] += call["usage"].get("input_tokens") or 0
        row["output_tokens"] += call["usage"].get("output_tokens") or 0
        row["nusd"] += int(Decimal(call["cost_usd"] or "0").scaleb(9))
    rows = sorted(found.values(), key=lambda row: -row["nusd"])
    for row in rows:
        row["cost_usd"] = f"{Decimal(row.pop('nusd')).scaleb(-9):f}"
    return rows


def _went(facts: Facts) -> Iterator[str]:
    rows = [
        [
            row["model"],
            *(number(row[name]) for name in ("calls", "input_tokens", "output_tokens")),
            money(row["cost_usd"]),
        ]
        for row in by_model(facts.calls)
    ]
    heads = ["MODEL", "CALLS", "INPUT", "OUTPUT", "COST"]
    yield table(heads, rows, right=heads[1:], width=98) if rows else "Nowhere: no call was sent."
    dear = sorted((call for call in facts.calls if Decimal(call["cost_usd"] or 0)), key=_falling)[:TOP]
    if dear:
        heads = ["DEAREST STEPS", "MODEL", "INPUT", "OUTPUT", "COST", "OUTCOME", "TOOLS"]
        yield table(heads, [_step(call) for call in dear], right=("INPUT", "OUTPUT", "COST"), width=98)
    grown = context_eaten(facts.calls)
    if grown:
        said = ", ".join(
            f"{harmless(name, 40)} {number(tokens)} tokens in {count(times, 'call')}"
            for name, tokens, times in grown[:TOP]
        )
        yield f"What filled the context (input that grew after a tool was called): {said}."
    if facts.children:
        said = ", ".join(
            f"{harmless(child['run_id'], 140)} {money(child['spent_usd'])}" for child in facts.children[:TOP]
        )
        rest = len(facts.children) - TOP
        yield f"Children: {said}" + (f", and {number(rest)} more." if rest > 0 else ".")


def context_eaten(calls: Sequence[Item]) -> list[tuple[str, int, int]]:
    """Which tool's results made the next request longer: name, tokens, times; the greediest first.

    What a request has more than the one before and its answer is what came back from the tools that were called; where
    several were, each is counted an equal part.
    """
    tokens: Counter[str] = Counter()
    times: Counter[str] = Counter()
    sent = sorted((call for call in calls if call["usage"].get("input_tokens")), key=lambda call: call["step"])
    for earlier, later in pairwise(sent):
        before = earlier["usage"]["input_tokens"] + (earlier["usage"].get("output_tokens") or 0)
        grown = later["usage"]["input_tokens"] - before
        called = [tool["name"] for tool in earlier["tool_calls"]]
        for name in called if grown > 0 else ():
            tokens[name] += grown // len(called)
            times[name] += 1
    return [(name, many, times[name]) for name, many in tokens.most_common() if many]


def _falling(call: Item) -> Decimal:
    return -Decimal(call["cost_usd"])


def _step(call: Item) -> list[str]:
    return [
        f"step {call['step']}",
        _model(call),
        number(call["usage"].get("input_tokens")),
        number(call["usage"].get("output_tokens")),
        money(call["cost_usd"]),
        call["outcome"] + (" (presumed)" if call["cost_source"] == "presumed" else ""),
        ", ".join(tool["name"] for tool in call["tool_calls"]) or "-",
    ]


def _model(call: Item) -> str:
    return str(call["response_model"] or call["request_model"] or "an unnamed model")


# --------------------------------------------------------------------------- 4


def _stopped(facts: Facts) -> Iterator[str]:
    run = facts.run
    reason = f": {harmless(run['reason'])}" if run["reason"] else ""
    ends = {
        "completed": "It ended by itself, its work done",
        "gave_up": "It gave up",
        "failed": "Its last call failed",
        "stopped_by_limit": "A limit was used up",
        "killed": "Somebody killed it",
        "abandoned": "No call came any more",
    }
    states = {"paused": "It is paused: calls are refused", "waiting": "It has not: a call waits for a person"}
    yield ends.get(run["outcome"] or "", states.get(run["state"], "It has not ended")) + reason + "."
    codes = Counter(str(call["reason"]) for call in facts.refused)
    for code, times in codes.most_common(TOP):
        yield f"{count(times, 'call was', 'calls were')} refused with {harmless(code, 60)}{_by_which(facts, code)}."
    for item in facts.used_up:
        used = f"{amount(item['unit'], item['spent'])} of {amount(item['unit'], item['limit'])}"
        yield f"It can't go on: budget {harmless(item['name'], 60)} on {harmless(whom(item), 140)} is used up: {used}."


def _by_which(facts: Facts, code: str) -> str:
    """The budget that has the least left of the unit of this refusal, as it is now."""
    unit = UNIT_OF.get(code, code.removeprefix("limit_"))
    tight = tightest(facts.budgets, unit)
    if tight is None:
        return ""
    said = (
        f": budget {harmless(tight['name'], 60)} on {harmless(whom(tight), 140)} has "
        f"{amount(unit, tight['spent'])} spent of {amount(unit, tight['limit'])}"
    )
    if Decimal(tight["spent"]) >= Decimal(tight["limit"]):
        return said
    if stopped_by(facts) == unit and unit in ("usd", "tokens"):
        return f"{said}, and the most that the call could use is more than what may be used"
    return f"{said} now"


def whom(item: Item) -> str:
    """The account of a budget as people read it."""
    account = str(item["account"])
    return f"run {account[4:].rpartition('/')[0]}" if account.startswith("run/") else account


# --------------------------------------------------------------------------- 5


def _running(facts: Facts) -> Iterator[str]:
    run = facts.run
    for call in facts.held[:TOP]:
        where = "" if call["run_id"] == run["run_id"] else f" of {harmless(call['run_id'], 140)}"
        yield (
            f"Call {harmless(call['call_id'], 80)}{where} to {harmless(call['model'], 60)} is open since "
            f"{moment(call['started_at'])} ({span(max(0.0, facts.now - instant(call['started_at'])))}) and holds "
            f"{money(call['held_usd'])}."
        )
    if len(facts.held) > TOP:
        rest = facts.held[TOP:]
        held = money(sum(Decimal(call["held_usd"]) for call in rest))
        yield f"And {count(len(rest), 'more call that holds', 'more calls that hold')} {held}."
    going = [child for child in facts.children if child["state"] in ("active", "waiting")]
    if going:
        names = ", ".join(
            [*(harmless(child["run_id"], 140) for child in going[:TOP]), *(["..."] if len(going) > TOP else [])]
        )
        yield f"{count(len(going), 'child is', 'children are')} not ended: {names}."
    if facts.held:
        return
    if run["state"] == "active":
        then = "its next call will be refused" if stopped_by(facts) else "its next call is served"
        yield f"No call is under way. The run is open: {then}, and without one it ends by itself."
    elif not going:
        yield "No: nothing is under way, nothing is held."
