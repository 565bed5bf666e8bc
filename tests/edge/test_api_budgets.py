"""Claims about /api/budgets: every budget on every account of its scope, page by page, and when each is used up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ledger import names
from gateway.core.ports import Standing
from gateway.core.types import NUSD, Charge, Exchange, Order, Reservation, Run, RunFacts, Usage
from gateway.core.windows import Calendar
from gateway.edge.admin import Surface
from gateway.edge.api_budgets import Place, age, counts_on, limit_of, read_place, spell_place
from gateway.edge.api_door import LOOPBACK
from gateway.rules.budget import Budget
from tests.edge.test_admin import House

HOUR, DAY, MONTH = Calendar("hour"), Calendar("day"), Calendar("month")
BUDGETS = (
    Budget("run-usd", limit=10 * NUSD, most=20 * NUSD),
    Budget("run-calls", limit=5, most=5, unit="calls"),
    Budget("run-time", limit=60, most=60, unit="seconds"),
    Budget("agents", limit=100 * NUSD, most=100 * NUSD, scope="agent:*", window=DAY),
    Budget("research", limit=50 * NUSD, most=50 * NUSD, scope="agent:research", window=DAY, mode="shadow"),
    Budget("research-tokens", limit=1000, most=1000, scope="agent:research", unit="tokens", window=MONTH),
    Budget("users", limit=9, most=9, scope="user:*", unit="calls", window=HOUR),
    Budget("keys", limit=NUSD, most=NUSD, scope="key:*", window=DAY),
    Budget("all", limit=500 * NUSD, most=500 * NUSD, scope="global", window=DAY, mode="shadow"),
    Budget("all-hour", limit=500 * NUSD, most=500 * NUSD, scope="global", window=HOUR),
)


class Spender(House):
    """A control plane whose calls charge every account that the budgets name."""

    def charges(self, line: list[str], owners: dict[str, str], nusd: int) -> list[Charge]:
        """What the rule makes of the budgets, an account once."""
        found: dict[tuple[str, Any], Charge] = {}
        sizes = {"nusd": nusd, "calls": 1, "tokens": 15}
        for budget in BUDGETS:
            kind = budget.scope.partition(":")[0]
            size = sizes.get(budget.unit, 0)
            for owner in line if kind == "run" else [owners[kind]] if kind in owners else []:
                if counts_on(budget, kind, owner):
                    account = names.spell(kind, owner, budget.unit)
                    limit = None if budget.shadow else budget.limit
                    if (account, budget.window) not in found or limit is not None:
                        found[account, budget.window] = Charge(
                            account, budget.unit, size, size, limit, budget.most, window=budget.window
                        )
        return list(found.values())

    async def spend(self, run: str, nusd: int, parent: str | None = None, **who: str) -> str:
        """A call that holds this much; give its id to `done`."""
        self._calls += 1
        line = [run] if parent is None else [run, parent]
        tenant, _, run_id = run.rpartition("~")
        owners = {**who, "global": "all", **({"key": tenant} if tenant else {})}
        order = Order(
            f"c{self._calls}/1", f"c{self._calls}",
            RunFacts(run, run_id, tenant, "header", parent, who.get("agent"), who.get("user")),
            tuple(self.charges(line, owners, nusd)), self.clock.now(), self.clock.now() + 3660,
            gates=tuple(f"run/{key}" for key in line), about=("openai-chat", "openai", "chat", "gpt-4o", True),
        )  # fmt: skip
        assert isinstance(await self.store.reserve(order), Reservation)
        return order.call_id

    async def done(self, call_id: str, run: str, nusd: int) -> None:
        """It has ended at this cost."""
        exchange = Exchange(
            call_id, run, 1, "openai-chat", "openai", "chat", "gpt-4o", True, self.clock.now(), status=200,
            cost_nusd=nusd, cost_source="price_list", usage=Usage(10, 5),
        )  # fmt: skip
        await self.store.settle(f"{call_id}/1", {"nusd": nusd, "calls": 1, "tokens": 15}, exchange)

    async def whole(self, run: str, nusd: int, parent: str | None = None, **who: str) -> None:
        """Held and done."""
        await self.done(await self.spend(run, nusd, parent, **who), run, nusd)

    async def items(self, query: str = "", limit: int = 1000) -> list[dict[str, Any]]:
        """Every item, page by page."""
        found: list[dict[str, Any]] = []
        cursor = ""
        for _ in range(200):
            page = await self.get(f"/api/budgets?limit={limit}{query}{cursor}")
            assert len(page["items"]) <= limit
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"
        raise AssertionError("the pages don't end")


def named(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Which budget on which account."""
    return [(item["name"], item["account"]) for item in items]


SURFACE = Surface(budgets=BUDGETS, hosts=LOOPBACK, tenants=("ann",))


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spender]:
    """Over each store."""
    async with Spender(SURFACE, tmp_path / "ledger.sqlite3" if request.param == "sqlite" else None) as made:
        yield made


async def test_every_budget_shows_every_account_of_its_scope(house: Spender) -> None:
    """Whatever unit, window and mode: the configured word, the account in the words of refusals, exact amounts."""
    await house.whole("r1", 2 * NUSD, agent="research", user="eve/a b")
    house.clock.advance(1)
    await house.whole("ann~r2", NUSD // 2, agent="other")
    items = await house.items()
    assert [
        ("all", "global"),
        ("all-hour", "global"),
        ("keys", "key:ann"),
        ("users", "user:eve/a b"),
        ("agents", "agent:other"),
        ("agents", "agent:research"),
        ("research", "agent:research"),
        ("research-tokens", "agent:research"),
        *((budget, f"run/{run}/{unit}") for run in ("ann~r2", "r1") for budget, unit in
          (("run-usd", "nusd"), ("run-calls", "calls"), ("run-time", "seconds"))),
    ] == named(items)  # fmt: skip
    by_name = {(item["name"], item["account"]): item for item in items}
    research = by_name["research", "agent:research"]
    assert {
        "scope": "agent:research", "unit": "usd", "per": "day", "mode": "shadow", "limit": "50", "spent": "2",
        "held": "0", "overrun": "0", "window_started_at": "2027-01-15T00:00:00Z", "resets_at": "2027-01-16T00:00:00Z",
    }.items() <= research.items()  # fmt: skip
    tokens = by_name["research-tokens", "agent:research"]
    assert ("tokens", "month", 1000, 15, 0) == tuple(tokens[name] for name in ("unit", "per", "limit", "spent", "held"))
    assert ("agent:*", "100", "2.5") == tuple(
        by_name[key][name] for key, name in ((("agents", "agent:other"), "scope"), (("agents", "agent:other"), "limit"),
                                             (("all", "global"), "spent"))
    )  # fmt: skip
    assert (1, 5, None) == tuple(by_name["run-calls", "run/r1/calls"][name] for name in ("spent", "limit", "resets_at"))


async def test_pages_lose_and_double_nothing(house: Spender) -> None:
    """The same items in the same order whatever the page size, across kinds and in the middle of an account."""
    for number in range(7):
        await house.whole(f"r{number}", NUSD, agent=f"a{number}", user="u")
        await house.whole(f"s{number}", NUSD, agent="research")
    whole = named(await house.items())
    assert len(set(whole)) == len(whole) == 2 + 1 + 7 + 3 + 14 * 3
    for limit in (1, 2, 3, 7, 100):
        assert whole == named(await house.items(limit=limit)), limit


async def test_what_opens_between_two_pages_pushes_nothing_out(house: Spender) -> None:
    """An account that sorts in front of the one a page ended with, and a run that begins: the rest comes once."""
    for name in ("b", "d"):
        await house.whole(f"r-{name}", NUSD, agent=name)
    before = named(await house.items())
    for size in range(1, len(before)):
        page = await house.get(f"/api/budgets?limit={size}")
        await house.whole(f"new{size}", 1, agent=f"a{size}")
        rest = await house.get(f"/api/budgets?limit=1000&cursor={page['next_cursor']}")
        seen = [item for item in named(page["items"]) + named(rest["items"]) if item in before]
        assert before == seen, size


async def test_an_ended_window_stays_while_something_is_held_in_it(house: Spender) -> None:
    """Its account goes with its last hold; the window that follows is another account."""
    late = await house.spend("r1", NUSD, user="u")
    await house.whole("r1", NUSD, user="u")
    house.clock.advance(3600)
    await house.whole("r2", NUSD, user="u")
    hours = [item for item in await house.items() if item["name"] == "all-hour"]
    assert [("1", "1", None), ("1", "0", "2027-01-15T09:00:00Z")] == [
        (item["spent"], item["held"], item["window_started_at"] if item["held"] == "0" else item["exhausted_at"])
        for item in hours
    ]
    await house.done(late, "r1", NUSD)
    assert ["2027-01-15T09:00:00Z"] == [
        item["window_started_at"] for item in await house.items() if item["name"] == "all-hour"
    ]


async def test_a_runs_seconds_pass_by_themselves(house: Spender) -> None:
    """Used is how long ago it began, also without a call; it ends at a known instant and stands still after the end."""
    await house.whole("r1", 1)
    house.clock.advance(42.5)

    async def seconds() -> tuple[Any, ...]:
        (found,) = [item for item in await house.items() if item["name"] == "run-time"]
        return found["spent"], found["limit"], found["exhausted_at"]

    assert (42, 60, "2027-01-15T08:01:00Z") == await seconds()
    await house.post("/api/runs/r1/end", {})
    house.clock.advance(1000)
    assert (42, 60, None) == await seconds()


async def test_exhausted_at_is_the_present_pace(house: Spender) -> None:
    """Of the window so far, if it comes before the window ends; null where it never does."""
    house.clock.advance(4 * 3600)  # noon
    await house.whole("r1", 60 * NUSD // 10, agent="research")
    items = {item["name"]: item for item in await house.items()}
    assert None is items["agents"]["exhausted_at"]  # 6 of 100 by noon
    await house.whole("r2", 3 * NUSD, agent="research")
    await house.whole("r3", 9 * NUSD, agent="research")
    for number in range(4):
        await house.whole(f"q{number}", 9 * NUSD, agent="research")
    items = {item["name"]: item for item in await house.items()}
    assert "54" == items["research"]["spent"]
    assert items["research"]["exhausted_at"].startswith("2027-01-15T12:00:0")  # a shadow is beyond its limit: now
    assert items["agents"]["exhausted_at"].startswith("2027-01-15T22:13:")  # 54 in 12 h, 46 to go
    assert None is items["all"]["exhausted_at"]


async def test_a_run_shows_what_it_is_charged_on(house: Spender) -> None:
    """?run= lists the run, its parent, then agent, user and all, in the order in which they refuse; zeros too."""
    await house.whole("root", NUSD, agent="research")
    await house.whole("child", NUSD, "root", agent="research", user="u")
    house.clock.advance(3600)
    items = await house.items("&run=child")
    assert [
        *((budget, f"run/{run}/{unit}") for run in ("child", "root") for budget, unit in
          (("run-usd", "nusd"), ("run-calls", "calls"), ("run-time", "seconds"))),
        ("agents", "agent:research"), ("research", "agent:research"), ("research-tokens", "agent:research"),
        ("users", "user:u"), ("all", "global"), ("all-hour", "global"),
    ] == named(items)  # fmt: skip
    by_name = {item["name"]: item for item in items}
    assert ("0", "2027-01-15T09:00:00Z") == (by_name["all-hour"]["spent"], by_name["all-hour"]["window_started_at"])
    assert (0, "2") == (by_name["users"]["spent"], by_name["agents"]["spent"])
    assert items == await house.items("&run=child", limit=2)


async def test_an_operators_limit_is_the_one_in_force(house: Spender) -> None:
    """On the account that it was set on, as far as the configuration allows; a shadow keeps its own."""
    await house.whole("r1", NUSD)
    await house.post("/api/runs/r1/limits", {"usd": "20", "calls": 3})
    items = {item["name"]: item for item in await house.items("&run=r1")}
    assert ("20", 3) == (items["run-usd"]["limit"], items["run-calls"]["limit"])
    shadow = Budget("watch", limit=5, most=5, mode="shadow")
    assert 5 == limit_of(shadow, Standing("run/r1/nusd", 3, 0, 0, 0, 3))


def test_a_place_is_spelled_so_that_any_client_can_send_it() -> None:
    """Only letters, digits, - and _; anything else that comes back is refused."""
    for place in (Place("agent", "agent/ä b/nusd/2026", 2), Place("run", "k~r.1", 0), Place("global", "global/all/x")):
        text = spell_place(place)
        assert text.replace("-", "").replace("_", "").isalnum()
        assert place == read_place(text)
    for wrong in ("", "é", "cnVu", spell_place(Place("job", "job/x")), spell_place(Place("agent", "user/x"))):
        with pytest.raises(ValueError, match=r".*"):
            read_place(wrong)


def test_an_ended_run_grows_no_older() -> None:
    """The clock of a run stands still at its end, and never runs backwards."""
    run = Run("r", "r", started_at=100.0)
    assert (50, 0) == (age(run, 150.9), age(run, 90.0))
    run.ended_at = 110.0
    assert 10 == age(run, 150.0)
