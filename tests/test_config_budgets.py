"""`[[budgets]]`: every scope, unit, window and mode; contradictions are told with file, line, key and a way out."""

import json
import re
import zoneinfo
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gateway import config_budgets
from gateway.config import Settings, load
from gateway.config_budgets import BudgetTable
from gateway.core import identify
from gateway.core.errors import ConfigError
from gateway.core.ledger.book import AMOUNT_MOST
from gateway.core.price import RateCard, Rates
from gateway.core.types import NUSD, Provider
from gateway.core.windows import Calendar
from gateway.edge.api_models import MOST_USD
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


def test_time_that_is_up_has_no_last_call(tmp_path):
    """The calls of the same budget have one."""
    calls, seconds = rules(tmp_path, table("b", "run", "calls = 9", "seconds = 60", 'on_exceed = "last_call"'))
    assert ("last_call", "stop") == (calls.on_exceed, seconds.on_exceed)


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
        ("[1e-3, 1e1]", (("0.001", 1), ("10", 10_000))),
    ],
)
def test_thresholds_keep_their_spelling(tmp_path, written, read):
    """A threshold is shown as the operator wrote it; they are in order, and may lie above the limit of a shadow."""
    [rule] = rules(tmp_path, table("b", "run", "usd = 1", f"alert_at = {written}"))
    assert read == rule.alert_at


# --------------------------------------------------------------------------- what can't be enforced is an error

DAY = ('per = "day"', "usd = 1")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (('scope = "agents:*"', *DAY), "3: budgets[0].scope: write one of run, agent:*, user:*, key:*, global"),
        (('scope = "agents:*"', *DAY), "Did you mean `agent:*`?"),
        (('scope = "agnt:research"', *DAY), "Did you mean `agent:*`?"),
        (('scope = "Run"', "usd = 1"), "Did you mean `run`?"),
        (('scope = "agent"', *DAY), "3: budgets[0].scope: write agent:* for each agent on its own, or agent:NAME"),
        (('scope = "key:"', *DAY), "write key:* for each key on its own, or key:NAME for one of them"),
        (('scope = "agent:research-*"', *DAY), "`*` stands alone: agent:* for each agent"),
        (('scope = "agent: research"', *DAY), "without blanks around it"),
        (('scope = "user:\\u0007"', *DAY), "printable characters"),
        ((f'scope = "user:{"x" * 257}"', *DAY), "at most 256"),
        (("scope = 5", *DAY), "3: budgets[0].scope: write one of run"),
        (('scope = "run"', "dollars = 1"), "4: budgets[0].dollars: unknown key."),
        (('scope = "run"', "token = 1"), "4: budgets[0].token: unknown key. Did you mean `tokens`?"),
        (('scope = "run"',), "1: budgets[0]: limits nothing: name at least one of usd, calls, tool_calls, tokens, sec"),
        (('scope = "run"', "calls = 0"), "4: budgets[0].calls: must be above 0; to stop everything use `meterbox kill"),
        (('scope = "run"', "calls = -5"), "4: budgets[0].calls: must be above 0"),
        (('scope = "run"', "calls = 1.5"), "4: budgets[0].calls: write a whole number, e.g. 50"),
        (('scope = "run"', "tokens = 1e6"), "4: budgets[0].tokens: write a whole number"),
        (('scope = "run"', "seconds = true"), "4: budgets[0].seconds: write a whole number"),
        (('scope = "run"', "seconds = nan"), "4: budgets[0].seconds: write a whole number"),
        (('scope = "run"', 'tool_calls = "many"'), "4: budgets[0].tool_calls: write a whole number"),
        (
            ('scope = "run"', f"tokens = {2**50 + 1}"),
            "4: budgets[0].tokens: the greatest number is 1,125,899,906,842,6",
        ),
        (
            ('scope = "run"', "usd = 1", 'per = "day"'),
            "5: budgets[0].per: a run has one budget for its whole life: tak",
        ),
        (('scope = "global"', "usd = 1"), '1: budgets[0].per: is missing: write per = "hour", "day" or "month"'),
        (('scope = "key:*"', 'per = "run"', "usd = 1"), '4: budgets[0].per: "run" is for scope "run" only: write per'),
        (('scope = "global"', 'per = "days"', "usd = 1"), "write one of run, hour, day, month. Did you mean `day`?"),
        (('scope = "global"', "per = 1", "usd = 1"), "4: budgets[0].per: write one of run, hour, day, month."),
        (('scope = "run"', "usd = 1", 'zone = "UTC"'), "5: budgets[0].zone: a run has no window that a zone could pla"),
        (('scope = "global"', *DAY, 'zone = "Europe/Berln"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "Europe/Berln"'), "Did you mean `Europe/Berlin`?"),
        (('scope = "global"', *DAY, 'zone = "europe/berlin"'), "Did you mean `Europe/Berlin`?"),
        (('scope = "global"', *DAY, 'zone = "New York"'), "Did you mean `America/New_York`?"),
        (('scope = "global"', *DAY, 'zone = "Europe"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "localtime"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "../zone.tab"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "zone.tab"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "posix/Europe/Berlin"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "a\\u0000b"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = "/etc/localtime"'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, 'zone = ""'), "6: budgets[0].zone: no such time zone"),
        (('scope = "global"', *DAY, "zone = 1"), "6: budgets[0].zone: should be a valid string"),
        (('scope = "run"', "usd = 1", 'mode = "strct"'), "5: budgets[0].mode: write one of strict, expected, shadow."),
        (('scope = "run"', "usd = 1", 'mode = "strct"'), "Did you mean `strict`?"),
        (('scope = "run"', "usd = 1", 'on_exceed = "lastcall"'), "Did you mean `last_call`?"),
        (('scope = "run"', "usd = 1", 'on_exceed = "ask"'), "5: budgets[0].on_exceed: a limit that can't be enforced "),
        (('scope = "run"', "usd = 1", 'on_exceed = "degrade"'), "1: budgets[0].degrade_to: is missing: on_exceed"),
        (('scope = "run"', "seconds = 9", 'on_exceed = "last_call"'), "5: budgets[0].on_exceed: time that is up"),
        (('scope = "run"', "usd = 1", 'degrade_to = "m"'), "5: budgets[0].degrade_to: works with on_exceed"),
        (
            ('scope = "run"', "calls = 1", 'on_exceed = "degrade"', 'degrade_to = "m"'),
            "5: budgets[0].on_exceed: a cheaper model saves dollars and nothing else: name usd too",
        ),
        (('scope = "run"', "usd = 2", "max_usd = 1"), "5: budgets[0].max_usd: max_usd is how far"),
        (('scope = "run"', "calls = 2", "max_usd = 1"), "5: budgets[0].max_usd: is how far /limits may raise usd, whi"),
        (
            ('scope = "run"', "usd = 2", "max_usd = 1_000_001"),
            "5: budgets[0].max_usd: /limits takes at most 1,000,000 d",
        ),
        (('scope = "global"', *DAY, "max_usd = 2"), "6: budgets[0].max_usd: only the limit of a run can be raised"),
        (('scope = "run"', "usd = 1", "share = 0"), "5: budgets[0].share: must be above 0 and at most 1"),
        (('scope = "run"', "usd = 1", "share = 1.5"), "5: budgets[0].share: must be above 0 and at most 1"),
        (('scope = "run"', "usd = 1", "share = 0.0005"), "5: budgets[0].share: at most three digits"),
        (('scope = "run"', "usd = 1", "share = nan"), "5: budgets[0].share: NaN and infinity"),
        (('scope = "run"', "usd = 1", "share = true"), "5: budgets[0].share: write a number"),
        (('scope = "run"', "usd = 1", 'share = "half"'), "5: budgets[0].share: write a number"),
        (('scope = "run"', "usd = 1", "alert_at = 0.5"), "5: budgets[0].alert_at: write a list of at most 20 parts"),
        (
            ('scope = "run"', "usd = 1", f"alert_at = {[0.01] * 21}"),
            "5: budgets[0].alert_at: write a list of at most 2",
        ),
        (('scope = "run"', "usd = 1", "alert_at = [0]"), "5: budgets[0].alert_at: must be above 0 and at most 10"),
        (('scope = "run"', "usd = 1", "alert_at = [80]"), "5: budgets[0].alert_at: must be above 0 and at most 10"),
        (('scope = "run"', "usd = 1", "alert_at = [-0.5]"), "5: budgets[0].alert_at: must be above 0"),
        (('scope = "run"', "usd = 1", "alert_at = [inf]"), "5: budgets[0].alert_at: NaN and infinity"),
        (
            ('scope = "run"', "usd = 1", "alert_at = [0.5, 0.50]"),
            "5: budgets[0].alert_at: the same part stands there tw",
        ),
        (('scope = "run"', "usd = 1", "alert_at = [0.12345]"), "5: budgets[0].alert_at: at most three digits"),
        (('scope = "run"', "usd = 1", "alert_at = [true]"), "5: budgets[0].alert_at: write a number"),
        (('scope = "run"', "usd = 1", "alert_at = [1e999999999]"), "5: budgets[0].alert_at: "),
        (('scope = "run"', "usd = 1", 'clamp = "no"'), "5: budgets[0].clamp: should be a valid boolean"),
    ],
)
def test_what_a_budget_can_not_mean_stops_the_start(tmp_path, lines, said):
    """Each mistake with file, line and key, and with what to write instead (issue: bad input)."""
    found = fault(tmp_path, "\n".join(["[[budgets]]", 'name = "b"', *lines, ""]))
    assert found.startswith("meterbox.toml:")
    assert said in found and 1 == len(found.splitlines())


@pytest.mark.parametrize("name", ["a b", "", "a/b", "x" * 129, "ü"])
def test_a_budget_has_a_plain_name(tmp_path, name):
    """Names stand in accounts' thresholds and in alerts: no blanks, no slashes."""
    assert "meterbox.toml:2: budgets[0].name: 1 to 128 letters" in fault(tmp_path, table(name, "run", "usd = 1"))


def test_all_contradictions_are_told_at_once(tmp_path):
    """Two budgets with a mistake each, in the order of the file."""
    found = fault(
        tmp_path, table("a", "global", "usd = 1"), table("b", "run", "usd = 2", "max_usd = 1", 'per = "hour"')
    ).splitlines()
    assert ["meterbox.toml:1:", "meterbox.toml:9:", "meterbox.toml:10:"] == [line.split(" ")[0] for line in found]


def test_budgets_are_told_apart_by_name(tmp_path):
    """Two of one name: the line of the second is named (issue: two budgets with one name)."""
    assert (
        "meterbox.toml:6: budgets[1].name: two are named a (the other is budgets[0]): each needs a name of its own"
    ) == fault(tmp_path, table("a", "run", "usd = 1"), table("a", "global", *DAY))


VALUES = st.one_of(
    st.sampled_from(["true", "nan", "-inf", "[]", "{}", "[[1]]", "1979-05-27", '""', "1e-999999", "1e999999", "-0.0"]),
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: json.dumps(str(d))),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12).map(json.dumps),
    st.sampled_from(["run", "agent:*", "key:x", "global", "hour", "month", "expected", "degrade"]).map(json.dumps),
)


@examples(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.dictionaries(st.sampled_from(sorted(BudgetTable.model_fields)), VALUES))
def test_whatever_is_written_is_read_or_refused_with_its_place(tmp_path, written):
    """No value makes the start fail in any other way, and no error is without file and line."""
    lines = {"name": '"b"', "scope": '"run"', "usd": "1"} | written
    text = "\n".join(["[[budgets]]", *(f"{key} = {value}" for key, value in lines.items()), ""])
    said = ""
    try:
        assert loaded(tmp_path, text).budget_rules()
    except ConfigError as error:
        said = str(error)
    assert all(line.startswith(f"{tmp_path}/meterbox.toml:") for line in said.splitlines())


# --------------------------------------------------------------------------- budgets that contradict each other


def test_two_limits_of_the_same_thing_contradict(tmp_path):
    """Same scope, unit and window, both enforced: an error that names both (issue: budgets that contradict)."""
    found = fault(tmp_path, table("a", "run", "usd = 1", "calls = 5"), table("b", "run", "calls = 9", "tokens = 5"))
    assert (
        "meterbox.toml:9: budgets[1].calls: b and a both limit calls of run per run: keep one of them, or set mode = "
        '"shadow" on the other'
    ) == found
    found = fault(tmp_path, table("a", "agent:x", *DAY), table("b", "agent:x", *DAY, 'mode = "expected"'))
    assert "b and a both limit usd of agent:x per day" in found


@pytest.mark.parametrize(
    "second",
    [
        table("b", "agent:x", *DAY, 'mode = "shadow"'),
        table("b", "agent:x", 'per = "day"', "calls = 9"),
        table("b", "agent:x", 'per = "month"', "usd = 9"),
        table("b", "agent:y", *DAY),
        table("b", "user:x", *DAY),
        table("b", "agent:x", *DAY, 'zone = "Asia/Tokyo"'),
    ],
)
def test_what_differs_does_not_contradict(tmp_path, second):
    """A shadow beside it, another unit, window, zone or owner: both hold."""
    settings = loaded(tmp_path, table("a", "agent:x", *DAY), second)
    assert 3 == len(settings.budget_rules())
    assert [] == settings.warnings()


# --------------------------------------------------------------------------- what is worth a second look


def warned(folder: Path, *tables: str) -> list[str]:
    """What is said of these tables."""
    return loaded(folder, *tables).warnings()


@pytest.mark.parametrize(
    ("wide", "narrow", "reached"),
    [
        (("agent:*", "day", 5), ("agent:x", "day", 9), False),
        (("agent:*", "day", 5), ("agent:x", "day", 5), True),
        (("agent:*", "day", 9), ("agent:x", "day", 5), True),
        (("agent:*", "day", 5), ("user:x", "day", 9), True),
        (("agent:*", "hour", 5), ("agent:x", "day", 9), True),  # many hours make a day
        (("agent:*", "month", 5), ("agent:x", "day", 9), False),
        (("agent:x", "day", 5), ("agent:x", "hour", 9), False),
        (("global", "day", 5), ("key:*", "day", 9), False),
        (("global", "day", 5), ("run", "run", 9), True),  # a run may last for days
    ],
)
def test_a_limit_that_another_one_hides_is_said(tmp_path, wide, narrow, reached):
    """Where a budget that counts at least as much is lower, the higher one can never be reached."""
    tables = [
        table(name, scope, f"usd = {usd}", *([f'per = "{per}"'] if per != "run" else []))
        for name, (scope, per, usd) in (("wide", wide), ("narrow", narrow))
    ]
    if narrow[0].startswith("key"):
        tables.append('[server]\nauth = "keys"\n[[keys]]\nname = "k"\nsecret = "abcdefgh"\n')
    said = [
        f"budget narrow: its usd can never be reached: wide ({wide[0]} per {wide[1]}) applies too and is lower",
    ]
    assert ([] if reached else said) == warned(tmp_path, *tables)
    shadow = [one + 'mode = "shadow"\n' if '"wide"' in one else one for one in tables]
    assert [] == warned(tmp_path, *shadow)


def test_more_than_a_thousand_dollars_is_said_of_runs_only(tmp_path):
    """A limit in cents typed as dollars shows in a run's budget; a company's month may well cost more."""
    assert ["budget a: $1,500 for a single run is a lot; is the unit dollars?"] == warned(
        tmp_path, table("a", "run", "usd = 1500"), table("m", "global", 'per = "month"', "usd = 50_000")
    )


def test_a_key_that_does_not_exist_is_said(tmp_path):
    """A budget of a key that nobody has applies to nobody; the nearest name is given."""
    key = '[server]\nauth = "keys"\n[[keys]]\nname = "research"\nsecret = "abcdefgh"\n'
    assert [] == warned(
        tmp_path, key, table("a", "key:research", *DAY), table("b", "key:*", 'per = "month"', "usd = 9")
    )
    assert ["budget a: applies to nobody: no [[keys]] has this name. Did you mean `research`?"] == warned(
        tmp_path, key, table("a", "key:reserch", *DAY)
    )
    assert ["budget a: applies to nobody: there are no [[keys]]"] == warned(tmp_path, table("a", "key:*", *DAY))


@pytest.mark.parametrize("lines", [("calls = 50",), ("usd = 1", 'mode = "shadow"')])
def test_runs_without_a_dollar_limit_are_said(tmp_path, lines):
    """The first run budget takes the built-in $10 away, also where it limits something else."""
    [said] = warned(tmp_path, table("a", "run", *lines))
    assert said.startswith("budgets: runs have no dollar limit")
    assert [] == warned(tmp_path, table("a", "run", *lines), table("b", "run", "usd = 5"))


# --------------------------------------------------------------------------- prices


class Listed:
    """A price list that knows one model at one provider."""

    def __init__(self, provider: str, model: str) -> None:
        self._known = (provider, model)

    def card(self, provider: Provider, model: str, at: float) -> RateCard | None:
        """A card for the model that is known."""
        return RateCard("m", "p", Rates(1, 1, 1, 1, 1, 1, 1, 1)) if self._known == (provider.name, model) else None


def test_a_model_to_degrade_to_must_have_a_price(tmp_path):
    """Without one every call of it would be refused: a start-up error, unless unknown prices are allowed."""
    cheap = table("b", "run", "usd = 1", 'on_exceed = "degrade"', 'degrade_to = "mini"')
    settings = loaded(tmp_path, table("a", "global", *DAY), cheap)
    settings.check_prices(Listed("anthropic", "mini"), 0.0)
    with pytest.raises(ConfigError) as caught:
        settings.check_prices(Listed("groq", "mini"), 0.0)
    assert str(caught.value).startswith(
        f"{tmp_path}/meterbox.toml:11: budgets[1].degrade_to: no configured provider has a price for this model: "
    )
    loaded(tmp_path, cheap, '[prices]\nunknown = "allow"\n').check_prices(Listed("groq", "mini"), 0.0)


# --------------------------------------------------------------------------- where zones come from


def test_zones_are_known_without_a_zone_database_of_the_system(tmp_path):
    """A slim container has none: the one that is installed along is read."""
    zoneinfo.reset_tzpath([])
    try:
        [rule] = rules(tmp_path, table("b", "global", *DAY, 'zone = "Indian/Kerguelen"'))
    finally:
        zoneinfo.reset_tzpath()
    assert rule.window is not None
    assert "2026-11-22@Indian:Kerguelen" == rule.window.at(1_795_288_000.0).label


def test_greatest_values_are_those_of_who_takes_them():
    """The ledger's amount, what /limits takes, the length of a label: each is written down twice, and is the same."""
    assert (AMOUNT_MOST, MOST_USD * NUSD) == (config_budgets.MOST_COUNT, config_budgets.MOST_RAISED_NUSD)
    assert identify._MOST_LABEL == config_budgets.MOST_LABEL


def test_counts_may_come_from_the_environment(tmp_path):
    """`${NAME}` is a text, so a text of digits is a number."""
    file = tmp_path / "meterbox.toml"
    file.write_text(table("b", "run", 'calls = "${MOST}"'))
    assert [50] == [rule.limit for rule in load(file, {"MOST": "50"}).budget_rules()]


# --------------------------------------------------------------------------- the page about it

PAGE = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## `[[budgets]]`")[1].split("\n## ")[0]


def test_the_documented_example_means_what_its_comments_say(tmp_path):
    """The budgets of docs/configuration.md hold together, without a warning."""
    [example] = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    settings = loaded(tmp_path, example)
    assert [] == settings.warnings()
    berlin = Calendar("day", "Europe/Berlin", ZoneInfo("Europe/Berlin"))
    assert [
        ("each-run", "run", "nusd", 2 * NUSD, None, "last_call"),
        ("each-run", "run", "calls", 200, None, "last_call"),
        ("each-agent", "agent:*", "nusd", 25 * NUSD, berlin, "stop"),
        ("intern", "agent:intern", "nusd", 3 * NUSD, berlin, "degrade"),
        ("everything", "global", "nusd", 1500 * NUSD, Calendar("month"), "stop"),
        ("tokens-on-trial", "user:*", "tokens", 2_000_000, Calendar("hour"), "stop"),
    ] == [(one.name, one.scope, one.unit, one.limit, one.window, one.on_exceed) for one in settings.budget_rules()]


def test_the_page_names_every_word_and_default():
    """Each word that a key takes, and each default, stands in the key's own row."""
    rows = {row.split("|")[1].strip(" `"): row for row in SECTION.split("\n") if row.startswith("| `")}
    words = {
        "scope": ("run", "agent:*", "agent:NAME", "user:*", "user:NAME", "key:*", "key:NAME", "global"),
        "per": ("run", "hour", "day", "month"),
        "mode": ("strict", "expected", "shadow"),
        "on_exceed": ("stop", "last_call", "degrade"),
    }
    for key, known in words.items():
        assert [] == [word for word in known if f'`"{word}"`' not in rows[key]]
    for key, default in (("zone", '"UTC"'), ("mode", '"strict"'), ("on_exceed", '"stop"'), ("share", "1.0")):
        assert f"`{default}`" == rows[key].split("|")[2].strip()
    assert "`[0.5, 0.8, 1.0]`" == rows["alert_at"].split("|")[2].strip()
