"""Claims about what alerts say: a sentence that fits a phone, amounts that are never too high, commands to paste."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.telemetry.alerts import texts
from gateway.core.telemetry.alerts.episodes import ENDS, Episode
from gateway.core.types import NUSD

AT = 1_800_000_000.0

FACTS: dict[str, dict[str, Any]] = {
    "budget_threshold": {
        "budget": "each-run", "account": "run/R/nusd", "unit": "nusd", "limit": 10 * NUSD, "spent": 8_051_234_567,
        "permille": 800, "shadow": False, "run": "R", "key": "",
    },
    "burn_rate": {"run": "R", "key": "", "spent": 1_740_000_000, "rate": 52_100_000_000},
    "run_stopped": {"run": "R", "key": "", "how": "killed", "reason": "enough", "spent": 4_100_000_000, "unit": "nusd",
                    "limit": None, "scope": "run", "refused": 3},
    "price_unknown": {"run": "R", "key": "", "passed": 3, "refused": 1},
    "provider_down": {"calls": 12, "since": AT - 600, "status": 503},
    "telemetry_backlog": {"behind": 1204, "seconds": 400, "error": "it answered 503"},
}  # fmt: skip
LABELS = {"provider": "openai", "model": "gpt-x", "kind": "otlp-langfuse"}


def episode(alertname: str, labels: dict[str, str] | None = None, **facts: Any) -> Episode:
    """An episode as the watch would have made it."""
    known = {**FACTS[alertname], **facts}
    return Episode("al_1", f"{alertname}/x", alertname, "warning", labels or LABELS, known, AT - 600, AT)


def test_every_alert_has_its_words():
    """Each name of the table, open and over, within the length of a message on a phone, with its three commands."""
    assert set(ENDS) == set(FACTS)
    for alertname in FACTS:
        for over_at in (None, AT):
            one = episode(alertname)
            one.over_at, one.why = over_at, "rest"
            told = texts.told(one)
            assert 20 < len(told["summary"]) <= texts.SUMMARY_MOST
            assert told["summary"].endswith(".")
            assert told["summary"].startswith("Over: ") == (over_at is not None)
            assert "meterbox alerts mute al_1" == told["mute"]
            assert all(told[word].startswith("meterbox ") for word in told if word != "summary")


@pytest.mark.parametrize(
    ("alertname", "facts", "said"),
    [
        ("budget_threshold", {}, "Run R used $8.05 of $10.00: 80 % of budget each-run."),
        ("budget_threshold", {"account": "user/bob/tokens/2026-11-21", "unit": "tokens", "limit": 9000, "spent": 5625,
                              "permille": 625}, "User bob used 5,625 of 9,000 tokens: 62.5 % of budget each-run."),
        ("budget_threshold", {"spent": 400 * NUSD, "permille": 500, "shadow": True},
         "Run R used $400.00 of $10.00: 4,000 % of budget each-run; nothing stops it, the budget is a shadow."),
        ("burn_rate", {}, "Run R burns $52.10 an hour: $1.74 spent so far, $1,250.40 a day at this pace."),
        ("run_stopped", {}, "Run R was killed after $4.10: enough."),
        ("run_stopped", {"reason": ""}, "Run R was killed after $4.10."),
        ("run_stopped", {"how": "budget", "scope": "global"},
         "Run R was stopped by the budget of all runs at $4.10; calls are refused."),
        ("price_unknown", {"passed": 1},
         "No price for gpt-x of openai: 1 call passed uncounted, what they cost is unknown."),
        ("provider_down", {"status": None}, "Provider openai fails: 12 calls in a row since 07:50 UTC (no answer)."),
        ("telemetry_backlog", {"error": ""}, "Telemetry otlp-langfuse is 6 min behind: 1,204 entries wait."),
        ("run_stopped", {"beyond": 1700},
         "More alerts run_stopped than are told one by one: 1,700 so far; `meterbox alerts` lists what is open."),
    ],
)  # fmt: skip
def test_sentences(alertname, facts, said):
    """As a person reads them."""
    assert said == texts.summary(episode(alertname, **facts))


def test_the_page_shows_each_alert_as_it_comes():
    """docs/alerts.md names every alert, with the very sentence that is sent, and its runbook."""
    page = (Path(__file__).parents[4] / "docs/alerts.md").read_text(encoding="utf-8")
    for alertname in FACTS:
        facts: dict[str, Any] = {"passed": 0} if alertname == "price_unknown" else {}
        assert f"`{texts.summary(episode(alertname, **facts))}`" in page, alertname
        assert f"- [{alertname}](runbooks/" in page


@pytest.mark.parametrize(
    ("alertname", "why", "said"),
    [
        ("burn_rate", "ended", "Over: Run R has ended, 10 min after the alert; $1.74 spent."),
        ("price_unknown", "rest", "Over: nobody has asked for gpt-x of openai, which has no price, for a day."),
        ("provider_down", "rest", "Over: nobody has asked provider openai for an hour; its last 12 calls failed."),
        ("budget_threshold", "gone", "Over: Run R used $8.05 of $10.00 of budget each-run; its account is closed."),
    ],
)
def test_ends(alertname, why, said):
    """Why it is over."""
    one = episode(alertname)
    one.over_at, one.why = AT, why
    assert said == texts.summary(one)
    one.facts["beyond"] = 3
    assert f"No more alerts {alertname} beyond those told one by one; there were 3." == texts.summary(one)


@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 10**16))
def test_nothing_that_somebody_is_called_breaks_a_sentence_or_a_command(name: str, reason: str, amount: int) -> None:
    """One printable line of bounded length; a command whose words a shell reads back as they were."""
    for alertname in FACTS:
        one = episode(alertname, {"provider": name, "model": name, "kind": name}, run=name, reason=reason, spent=amount,
                      rate=amount, error=reason, budget=name)  # fmt: skip
        for over_at in (None, AT):
            one.over_at = over_at
            told = texts.told(one)
            assert told["summary"].isprintable()
            assert len(told["summary"]) <= texts.SUMMARY_MOST
        if "stop" in told and name:
            dashes = ["--"] if name.startswith("-") else []
            assert ["meterbox", "kill", *dashes, name] == shlex.split(told["stop"])


def test_a_run_whose_id_looks_like_an_option_is_that_run():
    """Callers choose run ids: `meterbox kill --all` in the alert of a run of that name would stop everything."""
    one = episode("run_stopped", run="--all", key="ann")
    assert {"stop": "meterbox kill --key ann -- --all", "look": "meterbox runs show --key ann -- --all"} == (
        texts.commands(one)
    )
    labels = {**LABELS, "model": "-h"}
    assert "meterbox prices -- -h" == texts.commands(episode("price_unknown", labels))["look"]


@pytest.mark.parametrize(
    ("account", "stop"),
    [
        ("agent/a b/nusd/2026", "meterbox kill --agent 'a b'"),
        ("user/bob/nusd/2026", "meterbox kill --user bob"),
        ("global/all/nusd/2026", "meterbox kill --all"),
        ("key/ann/nusd/2026", None),
    ],
)
def test_what_stops_a_budget_is_whom_it_counts(account, stop):
    """Nothing stops a key's runs at once without stopping others' too, so nothing is proposed there."""
    one = episode("budget_threshold", account=account, run="")
    assert stop == texts.commands(one).get("stop")


@pytest.mark.parametrize(
    ("nusd", "said"),
    [(0, "$0.00"), (1, "$0.000000001"), (4_200_000, "$0.0042"), (9_999_999, "$0.009999999"), (10_000_000, "$0.01"),
     (9_999_999_999, "$9.99"), (1_250_400_000_000, "$1,250.40"), (-1_500_000_000, "$-1.50")],
)  # fmt: skip
def test_dollars_are_never_more_than_there_are(nusd, said):
    """Cut, not rounded: $9.999 is not $10.00."""
    assert said.replace("$-", "-$") == texts.dollars(nusd)


@pytest.mark.parametrize(("seconds", "said"), [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (12_000, "3 h 20 min")])
def test_durations(seconds, said):
    """In the words of the command line."""
    assert said == texts.lasted(seconds)
