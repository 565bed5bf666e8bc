"""`prices`: the cards that calls are metered by, and a provider's report beside the ledger, compared and booked."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.booking import book, plan
from gateway.cli.books import reading_of, writing_of
from gateway.cli.diff import calls_of, compare, days_of
from gateway.cli.report import read_report
from gateway.config import load
from gateway.core.ledger.schema import run_from
from gateway.core.types import NUSD, Attempt, Charge, Order, Reservation, RunFacts, Usage
from gateway.core.windows import Calendar
from gateway.edge.admin import Surface
from gateway.edge.api_door import LOOPBACK
from gateway.rules.budget import Budget
from gateway.stores.sqlite import SqliteStore
from tests.edge.test_admin import House
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, opened
from tests.play import nusd


def test_one_models_price_is_shown(tmp_path, monkeypatch, meterbox):
    """Dollars per million tokens, as the gateway would meter them."""
    monkeypatch.chdir(tmp_path)
    out = meterbox("prices", "gpt-4o-mini")[1]
    assert ["openai", "gpt-4o-mini", "0.15", "0.6", "0.075"] == out.split("\n")[1].split()[:5]
    items = json.loads(meterbox("prices", "--json", "--provider", "anthropic")[1])["items"]
    assert {"anthropic"} == {item["provider"] for item in items}
    assert 10 < len(items)


def test_an_override_wins(tmp_path, monkeypatch, meterbox):
    """[[prices.overrides]] is what is shown, and said to be one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meterbox.toml").write_text("[[prices.overrides]]\nmodel = 'gpt-4o-mini'\ninput = 7\noutput = 9\n")
    row = meterbox("prices", "gpt-4o-mini", "--provider", "openai")[1].split("\n")[1].split()
    assert ["openai", "gpt-4o-mini", "7", "9"] == row[:4]
    assert "override" == row[-1]


def test_an_unknown_model_is_said_with_what_to_do(tmp_path, monkeypatch, meterbox):
    """Exit status 1; never a price of zero."""
    monkeypatch.chdir(tmp_path)
    status, out, err = meterbox("prices", "no-such-model-x")
    assert (1, "") == (status, out)
    assert "[[prices.overrides]]" in err
    assert (
        "no provider section is called nope: there are openai, anthropic" in meterbox("prices", "--provider", "nope")[2]
    )


# --------------------------------------------------------------------------- diff

DAY = "2027-01-15"
HEAD = "start_time_iso,model,num_model_requests,input_tokens,output_tokens,amount_value,amount_currency\n"
BUDGETS = (
    Budget("each-run", limit=100 * NUSD, most=100 * NUSD),
    Budget("daily", limit=500 * NUSD, most=500 * NUSD, scope="agent:*", window=Calendar("day")),
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run R's three calls to gpt-4o ($0.5, $0.3, and one presumed at $0.4), one of its child, and others beside."""
    path = tmp_path / "state" / "ledger.db"
    path.parent.mkdir()
    (tmp_path / "meterbox.toml").write_text(f'[stores.sqlite]\npath = "{path}"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asyncio.run(_fill(path))
    return path


async def _fill(path: Path) -> None:
    clock = FakeClock()
    async with opened(SqliteStore(path, clock.now, clock.new_id)) as store:
        await _call(store, clock, "c1", NUSD // 2)
        await _call(store, clock, "c2", 300_000_000)
        await _call(store, clock, "c3", 400_000_000, source="presumed")
        await _call(store, clock, "c4", 100_000_000, run="kid", parent="R")
        await _call(store, clock, "c5", 7, model="gpt-4o-mini")
        await _call(store, clock, "c6", 9, provider="anthropic")
        await _call(store, clock, "c7", 0, source="refused")
        clock.advance(86_400)
        await _call(store, clock, "c8", 11)


async def _call(store: SqliteStore, clock: FakeClock, name: str, cost: int, **more: Any) -> None:
    run, parent = more.pop("run", "R"), more.pop("parent", None)
    source, model = more.pop("source", "price_list"), more.pop("model", "gpt-4o-2024-08-06")
    day = Charge("agent/a/nusd", "nusd", cost, cost, 500 * NUSD, window=Calendar("day"))
    purses = [charge(f"run/{key}/nusd", cost, limit=100 * NUSD) for key in ([run, parent] if parent else [run])]
    who = RunFacts(run, run, "", "header", parent, "a")
    deadline = clock.now() + 60
    asked = Order(f"{name}/1", name, who, (*purses, day), clock.now(), deadline, gates=("run/R", "run/kid"))
    assert isinstance(await store.reserve(asked), Reservation)
    told = exchange(
        name, cost, source, run=run, started_at=clock.now(), response_model=model, usage=Usage(100, 10),
        **{"provider": "openai", **more},
    )  # fmt: skip
    told.attempts = [Attempt(told.provider, model, 200, told.outcome, cost)]
    await store.settle(f"{name}/1", {"nusd": cost}, told)


def report(folder: Path, *lines: str) -> str:
    """A report of these lines, as a file."""
    file = folder / "report.csv"
    file.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def billed(amount: str, model: str = "gpt-4o-2024-08-06", day: str = DAY) -> str:
    """One line with a cost."""
    return f"{day}T00:00:00+00:00,{model},,,,{amount},usd"


def shown(path: Path) -> dict[str, Any]:
    """What /api says afterwards: spent of the run and of the agent's day, and each call's cost."""

    async def ask() -> dict[str, Any]:
        async with House(Surface(budgets=BUDGETS, hosts=LOOPBACK), path) as house:
            run = await house.get("/api/runs/R")
            calls = (await house.get("/api/runs/R/calls"))["items"] + (await house.get("/api/runs/kid/calls"))["items"]
            items = (await house.get("/api/budgets"))["items"]
            spent = {item["account"]: item["spent"] for item in items if item["resets_at"] != "2027-01-17T00:00:00Z"}
            costs = {call["call_id"]: nusd(call["cost_usd"]) for call in calls}
            return {"run": nusd(run["spent_usd"]), "own": nusd(run["own_spent_usd"]), "spent": spent, "costs": costs}

    return asyncio.run(ask())


def test_a_report_that_agrees_is_no_difference(ledger, tmp_path, meterbox):
    """Exit status 0; refused calls, other sections and days outside of the report don't count."""
    file = report(tmp_path, billed("1.3"), billed("0.000000007", "gpt-4o-mini"))
    status, out, err = meterbox("prices", "diff", file)
    assert (0, "") == (status, err)
    assert "they agree" in out and "gpt-4o-2024-08-06" in out
    said = json.loads(meterbox("prices", "diff", file, "--json")[1])
    assert (True, 0, ["openai"], [DAY, DAY]) == (said["agrees"], said["differences"], said["sections"], said["days"])
    assert [4, 1] == [item["calls"] for item in said["items"]]


def test_a_difference_is_told_with_its_sources(ledger, tmp_path, meterbox):
    """Exit status 1, the tolerance said; nothing is booked."""
    before = shown(ledger)
    file = report(tmp_path, billed("1.000000001"), billed("0.000000007", "gpt-4o-mini"))
    status, out, _ = meterbox("prices", "diff", file)
    assert 1 == status
    for words in ("$-0.300000", "1 call of unknown outcome", ": $0.40", "1 line above differs", "rounding of at most"):
        assert words in out, out
    said = json.loads(meterbox("prices", "--json", "diff", file)[1])
    assert {"price_list": "0.9", "presumed": "0.4"} == said["items"][0]["ledger"]["cost_by_source"]
    assert "-0.299999999" == said["items"][0]["difference_usd"]
    assert before == shown(ledger)


def test_after_booking_all_say_what_was_billed(ledger, tmp_path, meterbox):
    """The sum of calls, the run with its child, and the agent's budget, to the nano-dollar; in proportion to cost."""
    before = shown(ledger)
    file = report(tmp_path, billed("1.000000001"), billed("0.000000007", "gpt-4o-mini"))
    status, out, err = meterbox("prices", "diff", file, "--book", "--actor", "ann")
    assert (0, "") == (status, err)
    assert "booked: 4 corrections, $-0.300000" in out and "they agree" in out
    after = shown(ledger)
    assert 1_000_000_001 == sum(after["costs"][name] for name in ("c1", "c2", "c3", "c4"))
    parts = [before["costs"][name] - after["costs"][name] for name in ("c1", "c2", "c3", "c4")]
    assert [115_384_615, 69_230_769, 92_307_692, 23_076_923] == parts
    assert before["run"] - 299_999_999 == after["run"]
    assert before["own"] - 299_999_999 + 23_076_923 == after["own"]
    assert sum(after["costs"].values()) == after["run"] == nusd(after["spent"]["run/R/nusd"])
    spent = nusd(before["spent"]["agent:a"]) - nusd(after["spent"]["agent:a"])
    assert 299_999_999 == spent
    assert 0 == meterbox("ledger", "audit")[0]
    with closing(sqlite3.connect(ledger)) as line:
        names = [
            note for (note,) in line.execute("SELECT note FROM ledger WHERE kind = 'correct' AND account LIKE 'agent%'")
        ]
    assert 4 == len(names) and all(f"(ann, report:openai:{DAY}:gpt-4o-2024-08-06:" in name for name in names)


def test_a_report_is_booked_once_and_a_later_one_books_the_rest(ledger, tmp_path, meterbox):
    """Again changes nothing; another figure books what is missing, also back to the first one."""
    mini = billed("0.000000007", "gpt-4o-mini")
    for amount, many, booked in (
        ("1.0", 4, "-0.3"), ("1.0", 0, "0"), ("1.1", 4, "0.1"), ("1.1", 0, "0"), ("1.0", 4, "-0.1"), ("1.1", 4, "0.1"),
    ):  # fmt: skip
        said = json.loads(meterbox("prices", "diff", report(tmp_path, billed(amount), mini), "--book", "--json")[1])
        assert (many, booked, True) == (said["corrections"], said["booked_usd"], said["agrees"]), amount
        assert nusd(amount) == sum(cost for name, cost in shown(ledger)["costs"].items() if name in "c1 c2 c3 c4")
    assert 0 == meterbox("ledger", "audit")[0]


def test_two_bookings_at_once_book_once(ledger, tmp_path, meterbox):
    """Both read the same state, so both book by the same ids: the second one is a repeat."""
    file = report(tmp_path, billed("1.0"), billed("0.000000007", "gpt-4o-mini"))
    settings = load(Path("meterbox.toml"), {})
    read = read_report(Path(file).read_text())
    with reading_of(settings) as query:
        rows = compare(read, calls_of(query, ["openai"], days_of(read)))
        first, second = ([plan(query, row, "openai") for row in rows] for _ in range(2))

    async def both() -> None:
        async with writing_of(settings) as store:
            await book(store, first, "why", "ann")
            await book(store, second, "why", "bob")

    asyncio.run(both())
    assert NUSD == sum(cost for name, cost in shown(ledger)["costs"].items() if name in "c1 c2 c3 c4")


def test_a_booking_is_no_sign_of_life(ledger, tmp_path, meterbox):
    """What is learnt of an old call leaves when its run was last seen, and how it was, as they are."""

    def latest() -> list[Any]:
        with closing(sqlite3.connect(ledger)) as line:
            runs = [run_from(data) for (data,) in line.execute("SELECT data FROM run ORDER BY key")]
        return [(run.key, run.last_at, run.last_outcome) for run in runs]

    before = latest()
    mini = billed("0.000000007", "gpt-4o-mini")
    assert 0 == meterbox("prices", "diff", report(tmp_path, billed("1.0"), mini), "--book")[0]
    assert before == latest()


def test_nothing_goes_below_zero_and_what_no_call_can_take_is_said(ledger, tmp_path, meterbox):
    """A bill of nothing gives everything back; a model that the gateway never saw stays unbooked, exit status 1."""
    status, out, _ = meterbox("prices", "diff", report(tmp_path, billed("0"), billed("0.5", "o3")), "--book")
    assert 1 == status
    assert f"NOT booked: $0.50 of o3 on {DAY}: no call can take it" in out
    after = shown(ledger)["costs"]
    assert [0, 0, 0, 0] == [after[name] for name in ("c1", "c2", "c3", "c4")]
    assert 0 == meterbox("ledger", "audit")[0]
    assert 1 == meterbox("prices", "diff", report(tmp_path, billed("0.000001"), billed("0.5", "o3")), "--book")[0]
    after = shown(ledger)["costs"]
    assert 1_000 == sum(after[name] for name in ("c1", "c2", "c3", "c4"))


def test_calls_without_a_reservation_take_nothing(ledger, tmp_path, meterbox):
    """Reservations are forgotten after 40 days: the others take the difference, or it is said that nobody can."""
    with closing(sqlite3.connect(ledger)) as line:
        line.execute("DELETE FROM ledger WHERE reservation IN ('c5/1')")
        line.execute("DELETE FROM reservation WHERE id = 'c5/1'")
        line.commit()
    status, out, _ = meterbox("prices", "diff", report(tmp_path, billed("1.3"), billed("0.5", "gpt-4o-mini")), "--book")
    assert (1, True) == (status, "NOT booked: $0.500000" in out)


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        ("a,b\n1,2\n", [], "Its columns are: a, b"),
        (HEAD + billed("1"), ["--provider", "nope"], "no provider section is called nope: there are openai, anthropic"),
        ("date,model,output_tokens\n2027-01-15,gpt-4o,4\n", ["--book"], "states no cost"),
        (HEAD + "2027-01-15T00:00:00+00:00,m,,,,1,eur\n", [], "not in US dollars"),
    ],
)
def test_what_can_not_be_compared_is_said(ledger, tmp_path, meterbox, text, words, says):
    """Exit status 1 with the file's name and the reason."""
    file = tmp_path / "x.csv"
    file.write_text(text, encoding="utf-8")
    status, out, err = meterbox("prices", "diff", str(file), *words)
    assert (1, "", True) == (status, out, says in err), err


def test_a_file_that_is_no_text_is_refused(ledger, tmp_path, meterbox):
    """As a usage error where it isn't there, with a sentence where it is binary."""
    (tmp_path / "x.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    assert 1 == meterbox("prices", "diff", str(tmp_path / "x.csv"))[0]
    assert 2 == meterbox("prices", "diff", str(tmp_path / "none.csv"))[0]


def test_a_report_of_another_provider_needs_its_section(ledger, tmp_path, meterbox):
    """Anthropic's export is compared with that preset's calls; --provider says otherwise."""
    text = f"usage_date_utc,model,token_type,cost_usd\n{DAY},GPT 4o,output,1.30\n"
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    said = json.loads(meterbox("prices", "diff", str(tmp_path / "a.csv"), "--json")[1])
    assert (["anthropic"], False) == (said["sections"], said["agrees"])
    said = json.loads(meterbox("prices", "diff", "--provider", "openai", str(tmp_path / "a.csv"), "--json")[1])
    assert ["openai"] == said["sections"]
    assert ["GPT 4o", "gpt-4o-mini"] == [item["model"] for item in said["items"]]


def test_tokens_that_differ_stay_said_after_booking(ledger, tmp_path, meterbox):
    """They can't be booked; the money agrees, so the exit status is 0."""
    line = f"{DAY}T00:00:00+00:00,gpt-4o-2024-08-06,5,401,40,1.2,usd"
    status, out, _ = meterbox("prices", "diff", report(tmp_path, line, billed("0.000000007", "gpt-4o-mini")), "--book")
    assert (0, True) == (status, "the money agrees; tokens, which can't be booked, differ in 1 line" in out)
    assert "+1" in out and "the provider counts 5 requests, the gateway 4" in out
