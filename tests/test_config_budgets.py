"""`[[budgets]]`: every scope, unit, window and mode; contradictions are told with file, line, key and a way out."""

from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.config import Settings, load
from gateway.core.errors import ConfigError
from gateway.core.types import NUSD
from gateway.core.windows import Calendar
from gateway.rules.budget import Budget

ALERTS = (("0.5", 500), ("0.8", 800), ("1.0", 1000))


def table(name: str, scope: str, *lines: str) -> str:
    """One `[[budgets]]`, its keys in the order given: name on its second line, scope on its third."""
    return "\n".join(["[[budgets]]", f'name = "{name}"', f'scope = "{scope}"', *lines, ""])


def loaded(folder: Path, *tables: str) -> Settings:
    """The settings that these tables give."""
    file = folder / "meterbox.toml"
    file.write_text("".join(tables), encoding="utf-8")
    return load(file, {})


def rules(folder: Path, *tables: str) -> list[Budget]:
    """The rules that these tables give, without the built-in one."""
    return [rule for rule in loaded(folder, *tables).budget_rules() if rule.name != "default"]


def fault(folder: Path, *tables: str) -> str:
    """The error that these tables give, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, *tables)
    return str(caught.value).replace(f"{folder}/", "")


# --------------------------------------------------------------------------- what they become


def test_each_unit_becomes_a_rule_of_its_own(tmp_path):
    """Several units of one budget are several limits of the same name (design.md section 5)."""
    found = rules(
        tmp_path,
        table("b", "run", "usd = 2", "calls = 50", "tool_calls = 40", "tokens = 1_000_000", "seconds = 600"),
    )
    assert [
        ("b", "nusd", 2 * NUSD),
        ("b", "calls", 50),
        ("b", "tool_calls", 40),
        ("b", "tokens", 1_000_000),
        ("b", "seconds", 600),
    ] == [(rule.name, rule.unit, rule.limit) for rule in found]
    assert {("run", None, 1000, "strict", "stop", ALERTS)} == {
        (rule.scope, rule.window, rule.part, rule.mode, rule.on_exceed, rule.alert_at) for rule in found
    }


@pytest.mark.parametrize(
    "scope", ["agent:*", "agent:research", "agent:Ada Lovelace", "user:*", "user:a@b.example", "key:*", "global"]
)
@pytest.mark.parametrize("per", ["hour", "day", "month"])
def test_every_scope_but_run_has_a_window(tmp_path, scope, per):
    """Each scope in each window, in UTC unless a zone is named."""
    [rule] = rules(tmp_path, table("b", scope, f'per = "{per}"', "usd = 5"))
    assert (scope, Calendar(per, "UTC", UTC)) == (rule.scope, rule.window)


def test_a_window_may_have_a_zone(tmp_path):
    """Windows of a named zone know its offsets."""
    [rule] = rules(tmp_path, table("b", "global", 'per = "day"', 'zone = "Europe/Berlin"', "calls = 5"))
    assert Calendar("day", "Europe/Berlin", ZoneInfo("Europe/Berlin")) == rule.window


def test_mode_share_and_clamp_are_passed_on(tmp_path):
    """What the operator wrote reaches the rule."""
    lines = ('mode = "expected"', "share = 0.25", "clamp = false", 'on_exceed = "last_call"', "usd = 1", "max_usd = 3")
    [rule] = rules(tmp_path, table("b", "run", *lines))
    assert ("expected", 250, False, "last_call", NUSD, 3 * NUSD) == (
        rule.mode,
        rule.part,
        rule.clamp,
        rule.on_exceed,
        rule.limit,
        rule.most,
    )


def test_only_dollars_are_raised_and_degrade(tmp_path):
    """max_usd and the cheaper model belong to the dollars; the calls of the same budget stop."""
    dollars, calls = rules(
        tmp_path,
        table("b", "run", "usd = 1", "max_usd = 3", "calls = 9", 'on_exceed = "degrade"', 'degrade_to = "gpt-5-mini"'),
    )
    assert (3 * NUSD, "degrade", "gpt-5-mini") == (dollars.most, dollars.on_exceed, dollars.degrade_to)
    assert (9, "stop", None) == (calls.most, calls.on_exceed, calls.degrade_to)


def test_the_default_holds_until_a_run_budget_is_named(tmp_path):
    """$10 a run stays beside budgets of other scopes, and goes with the first of scope run, whatever it limits."""
    other = table("day", "global", 'per = "day"', "usd = 100")
    settings = loaded(tmp_path, other)
    assert settings.default_budget
    assert [("default", 10 * NUSD, ALERTS), ("day", 100 * NUSD, ALERTS)] == [
        (rule.name, rule.limit, rule.alert_at) for rule in settings.budget_rules()
    ]
    settings = loaded(tmp_path, other, table("steps", "run", "calls = 50"))
    assert not settings.default_budget
    assert ["day", "steps"] == [rule.name for rule in settings.budget_rules()]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[]", ()),
        ("[1]", (("1", 1000),)),
        ('[0.50, "0.9"]', (("0.50", 500), ("0.9", 900))),
        ("[1.0, 0.255]", (("0.255", 255), ("1.0", 1000))),
        ("[2.5]", (("2.5", 2500),)),
        ("[1e-3]", (("0.001", 1),)),
    ],
)
def test_thresholds_keep_their_spelling(tmp_path, written, read):
    """A threshold is shown as the operator wrote it; they are in order, and may lie above the limit of a shadow."""
    [rule] = rules(tmp_path, table("b", "run", "usd = 1", f"alert_at = {written}"))
    assert read == rule.alert_at
