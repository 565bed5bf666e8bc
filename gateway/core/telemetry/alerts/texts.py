"""What an alert says: one sentence that fits a phone, and the commands that stop, look and mute.

Invariant: a sentence has at most SUMMARY_MOST characters, all printable, whatever a run, a model or a reason is called;
an amount is never shown higher than it is; a command can be pasted into a shell. What never enters: prompt text, bodies
of answers, a decision.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any, Final

from gateway.core.ledger import names
from gateway.core.telemetry.alerts.episodes import Episode
from gateway.core.types import NUSD

SUMMARY_MOST: Final = 160
NAME_MOST: Final = 40  # of a run, an agent, a model within a sentence; the label has it whole
_UNITS: Final = {"calls": "calls", "tool_calls": "tool calls", "tokens": "tokens", "seconds": "seconds"}
_FEW: Final = {"insufficient_quota": "money", "cost_unbounded": "a cost that can't be bounded"}


def told(episode: Episode) -> dict[str, str]:
    """`summary`, and `stop`, `look`, `mute` as commands, those that apply."""
    about = {"summary": summary(episode), **commands(episode)}
    about["mute"] = f"meterbox alerts mute {episode.alert_id}"
    return about


def summary(episode: Episode) -> str:
    """One sentence, of what is or of what was."""
    if "beyond" in episode.facts:
        said = _beyond(episode)
    else:
        said = (_ENDS if episode.over_at is not None else _SENTENCES)[episode.alertname](episode, episode.facts)
    return fit(said)


def fit(said: str, most: int = SUMMARY_MOST) -> str:
    """Printable, and no longer than that."""
    spelled = "".join(c if c.isprintable() else " " for c in said)
    return spelled if len(spelled) <= most else f"{spelled[: most - 1].rstrip()}…"


def commands(episode: Episode) -> dict[str, str]:
    """What stops it and what shows it; each leaves out what there is no command for."""
    facts = episode.facts
    if facts.get("run"):
        run, key = facts["run"], facts.get("key") or ""
        look = pasted("runs show", run, key)
        if episode.alertname == "price_unknown":
            look = pasted("prices", episode.labels["model"])
        return {"stop": pasted("kill", run, key), "look": look}
    if "account" in facts:
        whom = names.read(facts["account"])
        if whom.kind in ("agent", "user"):
            owner = shlex.quote(whom.owner)
            return {"stop": f"meterbox kill --{whom.kind} {owner}", "look": f"meterbox runs --{whom.kind} {owner}"}
        stop = {"stop": "meterbox kill --all"} if whom.kind == "global" else {}
        return {**stop, "look": "meterbox budget"}
    return {"look": "meterbox alerts" if "beyond" in facts else "meterbox runs"}


def pasted(verb: str, name: str, key: str = "", options: str = "") -> str:
    """`meterbox kill R --key K`. A name that begins with a hyphen stands behind `--`: a run called --all is one run."""
    more = f" --key {shlex.quote(key)}{options}" if key else options
    if name.startswith("-"):
        return f"meterbox {verb}{more} -- {shlex.quote(name)}"
    return f"meterbox {verb} {shlex.quote(name)}{more}"


# --------------------------------------------------------------------------- words


def dollars(nusd: int) -> str:
    """At least cents, never more than there is; what is less than a cent has the digits that it needs."""
    sign, nusd = ("-", -nusd) if nusd < 0 else ("", nusd)
    whole, part = divmod(nusd, NUSD)
    if nusd >= NUSD // 100 or nusd == 0:
        return f"{sign}${whole:,}.{part * 100 // NUSD:02d}"
    return f"{sign}$0.{part:09d}".rstrip("0")


def clip(text: object, most: int = NAME_MOST) -> str:
    """A name that may be long, its beginning and its end."""
    said = str(text)
    return said if len(said) <= most else f"{said[: most - 9]}…{said[-8:]}"


def share(permille: int) -> str:
    """80 %, 62.5 %."""
    return f"{permille // 10:,} %" if permille % 10 == 0 else f"{permille / 10:.1f} %"


def lasted(seconds: float) -> str:
    """45 s, 6 min, 3 h 20 min."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7_200:
        return f"{whole // 60} min"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


def clock(at: float) -> str:
    """03:12 UTC."""
    return f"{datetime.fromtimestamp(at, tz=UTC):%H:%M} UTC"


def _amount(unit: str, value: int) -> str:
    return dollars(value) if unit == "nusd" else f"{value:,} {_UNITS.get(unit, unit)}"


def _of(unit: str, spent: int, limit: int | None) -> str:
    """$8.05 of $10.00; 40 of 80 calls."""
    if limit is None:
        return _amount(unit, spent)
    return f"{dollars(spent) if unit == 'nusd' else f'{spent:,}'} of {_amount(unit, limit)}"


def _many(count: int, one: str) -> str:
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def _run(facts: dict[str, Any]) -> str:
    return f"Run {clip(facts['run'])}"


def _whom(facts: dict[str, Any]) -> str:
    whom = names.read(facts["account"])
    if whom.kind == "run":
        return _run(facts)
    return "All runs" if whom.kind == "global" else f"{whom.kind.capitalize()} {clip(whom.owner)}"


# --------------------------------------------------------------------------- what is


def _threshold(_: Episode, facts: dict[str, Any]) -> str:
    used = _of(facts["unit"], facts["spent"], facts["limit"])
    shadow = "; nothing stops it, the budget is a shadow" if facts["shadow"] else ""
    return f"{_whom(facts)} used {used}: {_reached(facts)} of budget {clip(facts['budget'], 24)}{shadow}."


def _reached(facts: dict[str, Any]) -> str:
    """What is used by now in whole percent, where that is more than the threshold: $4 of $2 is not 50 %."""
    used = facts["spent"] * 100 // facts["limit"] * 10 if facts["limit"] else 0
    return share(max(facts["permille"], used))


def _burn(_: Episode, facts: dict[str, Any]) -> str:
    rate = facts["rate"]
    spent, day = dollars(facts["spent"]), dollars(rate * 24)
    return f"{_run(facts)} burns {dollars(rate)} an hour: {spent} spent so far, {day} a day at this pace."


def _stopped(_: Episode, facts: dict[str, Any]) -> str:
    if facts["how"] == "killed":
        why = f": {facts['reason']}" if facts["reason"] else ""
        return f"{_run(facts)} was killed after {dollars(facts['spent'])}{clip(why, 72)}."
    if "unit" not in facts:
        what = _FEW.get(facts["code"], facts["code"].removeprefix("limit_").replace("_", " "))
        return f"{_run(facts)} was stopped by its budget ({what}); calls are refused."
    scope = facts["scope"]
    whom = "all runs" if scope == "global" else clip(scope.replace(":", " "), 32)
    whose = "its budget" if scope == "run" else f"the budget of {whom}"
    if facts["limit"] is None:
        return f"{_run(facts)} was stopped by {whose} at {_amount(facts['unit'], facts['spent'])}; calls are refused."
    used = _of(facts["unit"], facts["spent"], facts["limit"])
    which = "calls that may need more" if facts["spent"] < facts["limit"] else "calls"
    return f"{_run(facts)} was stopped by {whose}: {used} used, {which} are refused."


def _unpriced(episode: Episode, facts: dict[str, Any]) -> str:
    model, provider = clip(episode.labels["model"], 48), clip(episode.labels["provider"], 24)
    if facts["passed"]:
        counted = _many(facts["passed"], "call")
        return f"No price for {model} of {provider}: {counted} passed uncounted, what they cost is unknown."
    return f"No price for {model} of {provider}: its calls are refused until it has one."


def _down(episode: Episode, facts: dict[str, Any]) -> str:
    said = f"status {facts['status']}" if facts["status"] is not None else "no answer"
    calls = _many(facts["calls"], "call")
    return (
        f"Provider {clip(episode.labels['provider'])} fails: {calls} in a row since {clock(facts['since'])} ({said})."
    )


def _behind(episode: Episode, facts: dict[str, Any]) -> str:
    error = f" ({clip(facts['error'], 60)})" if facts["error"] else ""
    entries = "1 entry waits" if facts["behind"] == 1 else f"{facts['behind']:,} entries wait"
    return f"Telemetry {clip(episode.labels['kind'])} is {lasted(facts['seconds'])} behind: {entries}{error}."


def _beyond(episode: Episode) -> str:
    kind, many = episode.alertname, f"{episode.facts['beyond']:,}"
    if episode.over_at is not None:
        return f"No more alerts {kind} beyond those told one by one; there were {many}."
    return f"More alerts {kind} than are told one by one: {many} so far; `meterbox alerts` lists what is open."


# --------------------------------------------------------------------------- what was


def _threshold_over(episode: Episode, facts: dict[str, Any]) -> str:
    used = _of(facts["unit"], facts["spent"], facts["limit"])
    why = {
        "window": "its window has ended", "ended": "the run has ended", "raised": "its limit was raised",
    }.get(episode.why, "its account is closed")  # fmt: skip
    return f"Over: {_whom(facts)} used {used} of budget {clip(facts['budget'], 24)}; {why}."


def _burn_over(episode: Episode, facts: dict[str, Any]) -> str:
    how = "has ended" if episode.why == "ended" else "has slowed down"
    lasting = lasted((episode.over_at or 0.0) - episode.first_at)
    return f"Over: {_run(facts)} {how}, {lasting} after the alert; {dollars(facts['spent'])} spent."


def _stopped_over(episode: Episode, facts: dict[str, Any]) -> str:
    calls = _many(facts.get("refused", 0), "call")
    if episode.why == "rest":
        return f"Over: {_run(facts)} is still stopped, but has asked for nothing for an hour; {calls} refused."
    return f"Over: {_run(facts)} goes on; {calls} refused while it was stopped."


def _unpriced_over(episode: Episode, facts: dict[str, Any]) -> str:
    model, provider = clip(episode.labels["model"], 48), clip(episode.labels["provider"], 24)
    if episode.why == "rest":
        return f"Over: nobody has asked for {model} of {provider}, which has no price, for a day."
    return f"Over: {model} of {provider} has a price; {_many(facts['passed'], 'call')} passed without one."


def _down_over(episode: Episode, facts: dict[str, Any]) -> str:
    provider = clip(episode.labels["provider"])
    if episode.why == "rest":
        return (
            f"Over: nobody has asked provider {provider} for an hour; its last {_many(facts['calls'], 'call')} failed."
        )
    lasting = lasted((episode.good_at or episode.over_at or 0.0) - facts["since"])
    return f"Over: provider {provider} answers again after {lasting}; {_many(facts['calls'], 'call')} failed."


def _behind_over(episode: Episode, _: dict[str, Any]) -> str:
    how = "is no longer configured" if episode.why == "gone" else "has caught up"
    return f"Over: telemetry {clip(episode.labels['kind'])} {how}; nothing was lost."


_SENTENCES: Final = {
    "budget_threshold": _threshold, "burn_rate": _burn, "run_stopped": _stopped, "price_unknown": _unpriced,
    "provider_down": _down, "telemetry_backlog": _behind,
}  # fmt: skip
_ENDS: Final = {
    "budget_threshold": _threshold_over, "burn_rate": _burn_over, "run_stopped": _stopped_over,
    "price_unknown": _unpriced_over, "provider_down": _down_over, "telemetry_backlog": _behind_over,
}  # fmt: skip
