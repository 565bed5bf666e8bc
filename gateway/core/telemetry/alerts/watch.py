"""What the journal means for alerts: which entry opens, grows or ends which episode.

Invariant: what is kept besides the episodes is bounded: one pace a run, one streak a provider; the ledger is asked for
amounts, never summed up here. What never enters: how an alert is worded or sent, a clock.

What opens an episode, and when it is over:
- budget_threshold: an entry `threshold` of a budget, an account (with its window) and a threshold. Over: the window or
  the run has ended, or the limit was raised.
- burn_rate: settled calls of a run and its descendants at more than the limit an hour (pace.py). Over: the pace fell
  below half of that, or the run has ended.
- run_stopped: an entry `kill`, or a call that a budget refused. Over: resumed; or calls pass and none was refused for
  5 min; or none was refused for 1 h.
- price_unknown: a call of a provider's model that was refused, or booked, without a price. Over: a call of it has a
  price; or nobody asked for it for a day.
- provider_down: DOWN_CALLS failures of a provider in a row (no answer, 5xx, a broken one), over DOWN_S or longer. Over:
  it answered and did not fail for 1 min; or nobody asked it for 1 h.
- telemetry_backlog: the oldest entry that a projection has not read is older than `backlog_s`. Over: it is younger than
  half of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.ledger import names
from gateway.core.ledger.runs import ANCESTORS_MOST
from gateway.core.ports import Reading, Standing
from gateway.core.telemetry.alerts.episodes import FLOOR, Episode, Episodes, Seen
from gateway.core.telemetry.alerts.pace import HOUR_S, TAU_S, Pace, Paces
from gateway.core.telemetry.changes import CALL_KINDS, Change, Changes
from gateway.core.telemetry.health import State
from gateway.core.telemetry.settings import AlertRules
from gateway.core.types import Attempt, Entry, Exchange

DOWN_CALLS: Final = 5
DOWN_S: Final = 30.0
MOST_PROVIDERS: Final = 200  # configured sections are fewer
STUCK_S: Final = 60.0  # a projection that is far behind and gets on, as after a rebuild, is given so long
ANEW_S: Final = 30.0  # how often the figures of a backlog are taken anew
LOOK_S: Final = 5.0  # how often the accounts of open thresholds are looked at
_NEVER: Final = 10**18  # a limit that no pace reaches

_any = msgspec.msgpack.Decoder().decode


class Streak(Struct):
    """Failures of a provider in a row."""

    calls: int
    since: float


class Kept(Struct):
    """What a notebook holds of a watch besides the episodes."""

    paces: dict[str, Pace] = {}
    streaks: dict[str, Streak] = {}


class Watch:
    """Reads entries in order; tells the episodes what it sees."""

    def __init__(self, reading: Reading, episodes: Episodes, rules: AlertRules, kept: Kept) -> None:
        self._reading = reading
        self._episodes = episodes
        self._changes = Changes(reading)
        self._burns = rules.burn_per_h_nusd is not None
        self._backlog_s = rules.backlog_s
        self.paces = Paces(rules.burn_per_h_nusd if rules.burn_per_h_nusd is not None else _NEVER, kept.paces)
        self._streaks = dict(kept.streaks)
        self.dirty: dict[str, Streak | None] = {}
        self._stuck: dict[str, float] = {}
        self._looked_at = 0.0

    def take(self, entry: Entry, quiet: bool = False) -> None:
        """One entry. quiet: it is history, nobody is told. Raises StoreFailed."""
        for change in self._changes.of((entry,)):
            if change.before is None:
                self._call(change, quiet)
        if entry.kind in CALL_KINDS or entry.kind == "run":
            return
        data: dict[str, Any] = _any(entry.data) if entry.data else {}
        if entry.kind == "threshold":
            self._threshold(entry, data, quiet)
        elif entry.kind in ("kill", "end"):
            self._ended(entry, data, quiet)
        elif entry.kind == "resume":
            self._episodes.end(f"run_stopped/{entry.run}", entry.at, "resumed", quiet)
        elif entry.kind in ("mute", "ack"):
            self._answer(entry, data)

    def sweep(self, now: float, health: Mapping[str, State]) -> None:
        """What time, the ledger's accounts and the state of the projections say. Raises StoreFailed."""
        for key, episode in list(self._episodes.open.items()):
            if episode.alertname == "burn_rate" and self.paces.slow(key.partition("/")[2], now):
                self._episodes.end(key, now, "slow")
        if not 0 <= now - self._looked_at < LOOK_S:
            self._looked_at = now
            self._accounts(now)
        for name, state in health.items():
            self._backlog(name, state, now)
        for key, episode in list(self._episodes.open.items()):
            if episode.alertname == "telemetry_backlog" and key.partition("/")[2] not in health:
                self._episodes.end(key, now, "gone")
        self.paces.sweep(now)
        self._episodes.sweep(now)

    def take_streaks(self) -> dict[str, Streak | None]:
        """What changed since the last time."""
        changed, self.dirty = self.dirty, {}
        return changed

    # ----------------------------------------------------------------------- calls

    def _call(self, change: Change, quiet: bool) -> None:
        call, at = change.call, change.entry.at
        if call.outcome == "refused" and not call.attempts:
            return self._refusal(change, quiet)
        if call.attempts:
            self._episodes.good(f"run_stopped/{call.run}", call.started_at)
        if call.cost_source == "unknown_model":
            self._unpriced(change, quiet)
        elif call.cost_source != "refused":
            self._episodes.good(f"price_unknown/{call.provider}/{_model(call)}", at)
        if self._burns and (call.cost_nusd or 0) > 0:
            self._burn(call, at, quiet)
        for attempt in call.attempts:
            self._attempt(attempt, at, quiet)

    def _refusal(self, change: Change, quiet: bool) -> None:
        call = change.call
        if call.reason == "price_unknown":
            self._unpriced(change, quiet)
        elif by_budget(call.reason) or (
            call.reason == "run_killed" and f"run_stopped/{call.run}" in self._episodes.open
        ):
            self._refused(change, quiet)

    def _refused(self, change: Change, quiet: bool) -> None:
        call = change.call
        found = self._episodes.open.get(f"run_stopped/{call.run}")
        facts: dict[str, Any] = {"refused": 1 if found is None else found.facts.get("refused", 0) + 1}
        if found is None or found.facts.get("how") != "killed":
            facts |= {"how": "budget", "code": call.reason}
            if call.limited is not None:
                told = call.limited
                facts |= {"scope": told.scope, "unit": told.unit, "limit": told.limit, "spent": told.spent}
        self._see_run("run_stopped", call.run, change.entry.at, facts, quiet)

    def _unpriced(self, change: Change, quiet: bool) -> None:
        call, at = change.call, change.entry.at
        about = f"{call.provider}/{_model(call)}"
        found = self._episodes.open.get(f"price_unknown/{about}")
        passed = (found.facts["passed"] if found is not None else 0) + (call.outcome != "refused")
        refused = (found.facts["refused"] if found is not None else 0) + (call.outcome == "refused")
        facts = {**self._who(call.run), "passed": passed, "refused": refused}
        labels = {"provider": call.provider, "model": _model(call)}
        seen = Seen("price_unknown", about, "warning", at, labels, facts, passed, FLOOR)
        self._episodes.see(seen, quiet)

    def _burn(self, call: Exchange, at: float, quiet: bool) -> None:
        """A run's pace has its descendants' calls in it, as its spending has (http.md section 4)."""
        line = [call.run]
        while len(line) <= ANCESTORS_MOST:
            run = self._changes.run(line[-1])
            if run is None or run.parent is None or run.parent in line:
                break
            line.append(run.parent)
        for key in line:
            self._spend(key, call.cost_nusd or 0, at, quiet)

    def _spend(self, run: str, cost: int, at: float, quiet: bool) -> None:
        rate = self.paces.spend(run, cost, at)
        key = f"burn_rate/{run}"
        found = self._episodes.open.get(key)
        if found is not None and self.paces.slow(run, at):
            self._episodes.end(key, at, "slow", quiet)
        elif rate is not None or found is not None:
            amount = int((rate or 0) * TAU_S / HOUR_S) if found is None else found.amount + cost
            account = self._reading.account(names.spell("run", run, "nusd"))
            facts: dict[str, Any] = {"spent": account.spent if account is not None else amount}
            if rate is not None:
                facts["rate"] = rate
            self._see_run("burn_rate", run, at, facts, quiet, amount)

    def _attempt(self, attempt: Attempt, at: float, quiet: bool) -> None:
        provider, status = attempt.provider, attempt.status
        if attempt.outcome == "upstream_error" and (status is None or status < 400 or status >= 500):
            streak = self._streaks.get(provider)
            if streak is None:
                if len(self._streaks) >= MOST_PROVIDERS:
                    return
                streak = self._streaks[provider] = Streak(0, at)
            streak.calls += 1
            self.dirty[provider] = streak
            if streak.calls >= DOWN_CALLS and at - streak.since >= DOWN_S:
                facts = {"calls": streak.calls, "since": streak.since, "status": status}
                labels = {"provider": provider}
                seen = Seen("provider_down", provider, "critical", at, labels, facts, streak.calls, FLOOR)
                self._episodes.see(seen, quiet)
        elif status is not None:  # whatever it said, it is there
            if self._streaks.pop(provider, None) is not None:
                self.dirty[provider] = None
            self._episodes.good(f"provider_down/{provider}", at)

    # ----------------------------------------------------------------------- budgets, ends, people

    def _threshold(self, entry: Entry, data: dict[str, Any], quiet: bool) -> None:
        account, budget, spelled = data["account"], data["budget"], data["threshold"]
        whom = names.read(account)
        labels = {"budget": budget, "threshold": spelled}
        facts = {word: data[word] for word in ("budget", "account", "unit", "limit", "spent")}
        facts |= {"permille": round(float(spelled) * 1000), "shadow": bool(data.get("shadow"))}
        if whom.kind == "run":
            facts |= self._who(whom.owner)
            labels |= self._labels(whom.owner)
        elif whom.kind == "agent":
            labels["agent"] = whom.owner
        about = f"{budget}/{account}/{spelled}"
        severity = "critical" if facts["permille"] >= 1000 else "warning"
        self._episodes.see(Seen("budget_threshold", about, severity, entry.at, labels, facts, data["spent"]), quiet)
        self._hush(budget, account)

    def _hush(self, budget: str, account: str) -> None:
        """Of several thresholds of one account only the highest one repeats itself."""
        of_it = [one for one in self._thresholds() if (one.facts["budget"], one.facts["account"]) == (budget, account)]
        highest = max((one.facts["permille"] for one in of_it), default=0)
        for one in of_it:
            one.hushed = one.facts["permille"] < highest
            self._episodes.touched(one.alert_id)

    def _thresholds(self) -> list[Episode]:
        return [one for one in self._episodes.open.values() if one.alertname == "budget_threshold" and one.labels]

    def _accounts(self, now: float) -> None:
        """Open thresholds as the ledger knows them now."""
        found = self._thresholds()
        standings = self._reading.standings([one.facts["account"] for one in found]) if found else {}
        for one in found:
            standing = standings.get(one.facts["account"])
            why = _passed(one, standing, now)
            limit = _limit_of(one, standing) if why is None else one.facts["limit"]
            if standing is not None and (standing.spent, limit) != (one.facts["spent"], one.facts["limit"]):
                one.facts = {**one.facts, "spent": standing.spent, "limit": limit}
                one.amount = max(one.amount, standing.spent)
                if one.quiet:
                    one.told = max(one.told, one.amount)
                one.quiet = False
                self._episodes.touched(one.alert_id)
            if why is not None:
                self._episodes.end(one.key, now, why)
                self._hush(one.facts["budget"], one.facts["account"])

    def _ended(self, entry: Entry, data: dict[str, Any], quiet: bool) -> None:
        run, at = entry.run, entry.at
        self.paces.forget(run)
        self._episodes.end(f"burn_rate/{run}", at, "ended", quiet)
        account = names.spell("run", run, "")
        for one in self._thresholds():
            if one.facts["account"].startswith(account):
                self._episodes.end(one.key, at, "ended", quiet)
        if entry.kind == "kill":
            facts = {"how": "killed", "reason": str(data.get("reason") or ""), "spent": data.get("spent_nusd") or 0}
            facts |= {"unit": "nusd", "limit": data.get("limit_nusd"), "scope": "run"}
            self._see_run("run_stopped", run, at, facts, quiet)

    def _answer(self, entry: Entry, data: dict[str, Any]) -> None:
        alert_id = str(data.get("alert_id", ""))
        if entry.kind == "mute":
            self._episodes.mute(alert_id, float(data.get("until") or 0.0))
        else:
            self._episodes.ack(alert_id, entry.at)

    # ----------------------------------------------------------------------- projections

    def _backlog(self, name: str, state: State, now: float) -> None:
        behind_s = 0.0 if state.oldest_at is None else now - state.oldest_at
        key = f"telemetry_backlog/{name}"
        found = self._episodes.open.get(key)
        if behind_s < self._backlog_s / 2:
            self._stuck.pop(name, None)
            self._episodes.end(key, now, "well")
        elif behind_s >= self._backlog_s:
            since = self._stuck.setdefault(name, now)
            if found is None and not state.failures and now - since < STUCK_S:
                return
            if found is None or now - found.last_at >= ANEW_S:
                facts = {"behind": state.behind, "seconds": int(behind_s), "error": state.last_error}
                labels = {"kind": name}
                self._episodes.see(
                    Seen("telemetry_backlog", name, "warning", now, labels, facts, state.behind, 10 * FLOOR)
                )

    # ----------------------------------------------------------------------- runs

    def _see_run(
        self, alertname: str, run: str, at: float, facts: dict[str, Any], quiet: bool, amount: int = 0
    ) -> None:
        severity = "critical" if alertname == "burn_rate" else "warning"
        seen = Seen(alertname, run, severity, at, self._labels(run), {**self._who(run), **facts}, amount)
        self._episodes.see(seen, quiet)

    def _labels(self, key: str) -> dict[str, str]:
        run = self._changes.run(key)
        labels = {"run_id": self._who(key)["run"]}
        if run is not None and run.agent:
            labels["agent"] = run.agent
        return labels

    @staticmethod
    def _who(key: str) -> dict[str, str]:
        tenant, _, run_id = key.rpartition("~")
        return {"run": run_id, "key": tenant}


def by_budget(code: str) -> bool:
    """Did a budget refuse it (http.md section 3)?"""
    return code in ("insufficient_quota", "cost_unbounded") or code.startswith("limit_")


def _model(call: Exchange) -> str:
    return call.request_model or call.response_model or "unknown"


def _passed(found: Episode, standing: Standing | None, now: float) -> str | None:
    """Why a threshold is over, by its account as it stands."""
    if standing is None:
        return "gone"
    if standing.ends_at is not None and standing.ends_at <= now:
        return "window"
    return "raised" if standing.spent * 1000 < _limit_of(found, standing) * found.facts["permille"] else None


def _limit_of(found: Episode, standing: Standing | None) -> int:
    """What a threshold is measured by: the limit in force, for a shadow its own."""
    limit: int = found.facts["limit"]
    return limit if found.facts["shadow"] or standing is None or standing.limit is None else standing.limit
