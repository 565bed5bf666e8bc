"""What may come next of a run: which limits would stop it the next time and how soon, and the commands for now.

Invariant: a pace is what the run did, a time is what follows from it; every command can be copied as it stands. What
never enters: asking the gateway, changing anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol

from gateway.cli.words import ahead, amount, count, harmless, moment, money, span
from gateway.core.telemetry.alerts.texts import pasted

Item = Mapping[str, Any]

MOST_NAMED: Final = 3
_FLAGS: Final = {"usd": "usd", "calls": "calls", "tool_calls": "tool-calls", "tokens": "tokens", "seconds": "seconds"}


class Told(Protocol):
    """What is known of the run (story.Facts)."""

    @property
    def run(self) -> Item: ...
    @property
    def calls(self) -> Sequence[Item]: ...
    @property
    def tools(self) -> Sequence[Item]: ...
    @property
    def held(self) -> Sequence[Item]: ...
    @property
    def budgets(self) -> Sequence[Item]: ...
    @property
    def refused(self) -> Sequence[Item]: ...
    @property
    def used_up(self) -> Sequence[Item]: ...
    @property
    def lasted_s(self) -> float: ...
    @property
    def most(self) -> Mapping[str, Any]: ...
    @property
    def now(self) -> float: ...


# --------------------------------------------------------------------------- could it happen again


def once_more(facts: Told) -> Iterator[str]:
    """Which budgets stop a run that does the same again, and when."""
    run, lasted = facts.run, facts.lasted_s
    spent = Decimal(run["spent_usd"])
    if lasted >= 1 and spent:
        pace = spent * 60 / Decimal(lasted)
        yield f"A run like this spends {money(pace.quantize(Decimal('0.01' if pace >= 1 else '0.0001')))} a minute."
    binding = [item for item in facts.budgets if item["mode"] != "shadow"]
    if not any(item["unit"] == "usd" for item in binding) and run["limits"].get("usd") is None:
        yield 'Yes: no budget limits its dollars. [[budgets]] with scope = "run" and usd = "..." would.'
    own = [item for item in binding if item["per"] == "run" and _is_own(item, run)]
    for item in own:
        yield _next_time(facts, item)
    for item in binding:
        if item["per"] != "run":
            yield _window(facts, item)
    above = [item for item in binding if item["per"] == "run" and item not in own]
    for item in above[:MOST_NAMED]:
        left = f"{amount(item['unit'], item['spent'])} of {amount(item['unit'], item['limit'])}"
        yield f"Its parent's budget {harmless(item['name'], 60)} ({harmless(item['account'], 140)}) has used {left}."
    repeats = sum(1 for tool in facts.tools if tool["repeated"])
    if repeats:
        many = f"{count(repeats, 'tool call')} of {len(facts.tools)}"
        yield f"{many} repeated an earlier one: it may have been going in circles."


def _is_own(item: Item, run: Item) -> bool:
    key = f"{run['key']}~" if run.get("key") else ""
    return str(item["account"]).startswith(f"run/{key}{run['run_id']}/")


def _next_time(facts: Told, item: Item) -> str:
    unit, limit = item["unit"], amount(item["unit"], item["limit"])
    name = f"Budget {harmless(item['name'], 60)}"
    spent, lasted = Decimal(item["spent"]), Decimal(facts.lasted_s)
    if unit == "seconds":
        return f"{name} stops every run after {limit}."
    if not spent or lasted < 1:
        return f"{name} stops this run at {limit}."
    return (
        f"{name} stops this run at {limit}: at this pace after {span(float(Decimal(item['limit']) * lasted / spent))}."
    )


def _window(facts: Told, item: Item) -> str:
    unit = item["unit"]
    left = Decimal(item["limit"]) - Decimal(item["spent"])
    left_said = amount(unit, max(left, Decimal(0)) if unit == "usd" else max(0, int(left)))
    dry = ahead(item["exhausted_at"], facts.now)
    words = {"-": "at its pace that lasts until then", "now": "calls are refused until then"}
    return (
        f"Budget {harmless(item['name'], 60)} on {harmless(item['account'], 140)} has {left_said} left for this "
        f"{item['per']}, until {moment(item['resets_at'])}: {words.get(dry, f'at its pace it is used up {dry}')}."
    )


# --------------------------------------------------------------------------- what do I do now


def now_what(facts: Told) -> Iterator[str]:
    """Commands with what they do."""
    unit = stopped_by(facts)
    item = None if unit is None or _lowered(facts.run) else tightest(facts.budgets, unit)
    if item is not None and not _is_own(item, facts.run):
        yield _others(item)
        unit = None
    if unit is not None and not _can_rise(facts, unit):
        most = amount(unit, facts.most[unit])
        yield f"Its limit can't rise: the configuration allows {most} a run (more takes a change there, and a reload)."
    lines = list(_commands(facts, unit))
    if not lines and unit is None and item is None:
        yield "Nothing: it is over, and nothing is open."
    width = max((len(line) for line, _ in lines), default=0)
    for line, what in lines:
        yield f"{line.ljust(width)}   {what}" if width <= 60 else f"{line}\n    {what}"


def _commands(facts: Told, unit: str | None) -> Iterator[tuple[str, str]]:
    run, state = facts.run, facts.run["state"]
    name, key = _word(run["run_id"]), _word(run.get("key") or "")
    if state == "killed" or (state == "paused" and not _lowered(run)):
        yield pasted("resume", name, key), "lets it go on"
    yield from _switches(facts)
    if unit is not None and _can_rise(facts, unit):
        more = f" --{_FLAGS[unit]} {_twice(facts, unit)}"
        yield pasted("budget", name, key, more), "raises its limit, so that it can go on"
    if state in ("active", "waiting") or facts.held:
        yield pasted("kill", name, key), "stops it and its children, ends open streams"
    if state in ("active", "waiting") and stopped_by(facts) is None and (limit := _half_more(run)) is not None:
        yield pasted("budget", name, key, f" --usd {limit}"), "limits what it may still spend"
    for call in [call for call in facts.calls if call["cost_source"] == "presumed"][:1]:
        voids = f"meterbox ledger correct {_word(call['call_id'])} --void --reason unbilled"
        yield voids, "if the provider did not bill this unclear call"


def _switches(facts: Told) -> Iterator[tuple[str, str]]:
    """What may have been stopped beside the run itself, and then refuses a run that was resumed."""
    run = facts.run
    latest = max(facts.calls, key=lambda call: call["step"], default=None)
    refused = latest is not None and latest in facts.refused and latest["reason"] == "run_killed"
    if run["state"] != "killed" and not (refused and run["state"] in ("active", "waiting")):
        return
    for word in ("agent", "user"):
        if run.get(word):
            yield f"meterbox resume --{word} {shlex.quote(_word(run[word]))}", f"too, if all of this {word} was stopped"
    yield "meterbox resume --all", "too, if everything was stopped"


def _others(item: Item) -> str:
    """What to do where no limit of the run itself stands in the way."""
    name, account = harmless(item["name"], 60), str(item["account"])
    if account.startswith("run/"):
        key, _, run = account[4:].rpartition("/")[0].rpartition("~")
        shown = pasted("runs show", harmless(run, 140), harmless(key, 140))
        return f"Budget {name} of its parent stands in the way: `{shown}` says how to raise it."
    until = f" until {moment(item['resets_at'])}" if item["resets_at"] else ""
    return (
        f"Budget {name} on {harmless(account, 140)} stands in the way{until}: a limit of the run's own doesn't help.\n"
        "To go on sooner, raise it in the configuration and reload (SIGHUP to `meterbox serve`)."
    )


def tightest(budgets: Sequence[Item], unit: str) -> Item | None:
    """The budget with the least left of a unit, the run's own before others; shadows refuse nobody."""
    found = [item for item in budgets if item["unit"] == unit and item["mode"] != "shadow"]
    left = [Decimal(item["limit"]) - Decimal(item["spent"]) - Decimal(item["held"]) for item in found]
    return min(zip(left, found, strict=True), key=lambda one: (one[0], one[1]["per"] != "run"), default=(None, None))[1]


def stopped_by(facts: Told) -> str | None:
    """The unit whose limit stands in the way of the next call, as far as is known: used up, or its last refusal."""
    run = facts.run
    for item in facts.used_up:
        return str(item["unit"])
    if run["state"] == "paused" and _lowered(run):
        unit = str(run["reason"]).rpartition(": ")[2]
        return unit if unit in _FLAGS else "usd"
    latest = max(facts.calls, key=lambda call: call["step"], default=None)
    if latest is None or latest not in facts.refused:
        return None
    code = str(latest["reason"])
    unit = "usd" if code == "insufficient_quota" else code.removeprefix("limit_")
    return unit if unit in _FLAGS else None


def _can_rise(facts: Told, unit: str) -> bool:
    most, limit = facts.most.get(unit), facts.run["limits"].get(unit)
    return most is None or limit is None or Decimal(limit) < Decimal(most)


def _lowered(run: Item) -> bool:
    return "below what it has used" in str(run["reason"] or "")


def _twice(facts: Told, unit: str) -> str:
    """A limit worth typing: twice what was used, or twice the one that was too low, whichever is more."""
    run = facts.run
    used = {
        "usd": Decimal(run["spent_usd"]), "tokens": Decimal(run["input_tokens"] + run["output_tokens"]),
        "seconds": Decimal(int(facts.lasted_s)),
    }.get(unit, Decimal(run.get(unit) or 0))  # fmt: skip
    wanted = 2 * max(used, Decimal(run["limits"].get(unit) or 0))
    if unit in facts.most:
        wanted = min(wanted, Decimal(facts.most[unit]))
    return f"{max(wanted, Decimal('0.01')).quantize(Decimal('0.01')):f}" if unit == "usd" else str(max(1, int(wanted)))


def _half_more(run: Item) -> str | None:
    """A limit that lets it spend half as much again; None where that limits nothing."""
    wanted = (Decimal(run["spent_usd"]) * 3 / 2).quantize(Decimal("0.01")) + Decimal("0.01")
    limit = run["limits"].get("usd")
    return f"{wanted:f}" if Decimal(run["spent_usd"]) and (limit is None or wanted < Decimal(limit)) else None


def _word(text: Any) -> str:
    """An id that a shell takes as it stands: ids have no blanks, and what else a client wrote is made harmless."""
    return harmless(text, 140)
