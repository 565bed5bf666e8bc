"""Claims about the control plane, asked over HTTP with a real low-level server and the memory store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from gateway.core.errors import ConfigError, StoreFailed
from gateway.core.live import Live, OpenCall
from gateway.core.secret import Secret
from gateway.core.types import (
    NUSD,
    Attempt,
    Charge,
    Content,
    Denied,
    Exchange,
    Order,
    Reservation,
    Result,
    RunFacts,
    ToolCall,
    Usage,
)
from gateway.edge import api_models as m
from gateway.edge.admin import Control, Surface
from gateway.edge.api_door import LOOPBACK
from gateway.edge.api_events import MOST_LISTENERS
from gateway.edge.api_routes import ROUTES
from gateway.edge.listener import make_runner
from gateway.edge.tasks import Tasks
from gateway.rules.budget import Budget
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock

TOKEN = "t" * 32
BUDGET = Budget("each-run", limit=10 * NUSD, most=20 * NUSD)


class House:
    """A control plane with its store, its open calls, and somebody who asks."""

    def __init__(self, surface: Surface, file: Path | None = None) -> None:
        self.clock = FakeClock()
        self.store: MemoryStore | SqliteStore
        if file is None:
            self.store = MemoryStore(self.clock.now)
        else:
            self.store = SqliteStore(file, self.clock.now, self.clock.new_id)
        self.live = Live()
        self.log: list[str] = []
        self.tasks = Tasks(lambda event, fields: self.log.append(f"{event} {fields}"))
        self.surface = surface
        self.headers: dict[str, str] = {}
        self.left = asyncio.Event()  # a client left before its answer
        self._calls = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """As the listener calls it."""
        try:
            return await self.control.handle(request)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def __aenter__(self) -> Self:
        await self.store.open()
        self.control = Control(self.store, self.store.reading(), self.live, self.surface, self.clock, self.tasks)
        self.runner = make_runner(self.handle, lambda event, fields: self.log.append(f"{event} {fields}"))
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        self.client = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.runner.cleanup()
        await self.tasks.drain(1)
        await self.store.close()
        self.control.close()

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """One request; status and JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {**self.headers, **options.pop("headers", {})}
        async with self.client.request(method, self.url + path, data=data, headers=headers, **options) as answer:
            assert "application/json" == answer.content_type
            return answer.status, await answer.json()

    async def get(self, path: str) -> Any:
        """A read that must succeed."""
        status, said = await self.ask("GET", path)
        assert (200, said) == (status, said)
        return said

    async def post(self, path: str, body: Any = None) -> Any:
        """A change that must succeed."""
        status, said = await self.ask("POST", path, body)
        assert (200, said) == (status, said)
        return said

    def order(self, run: str, want: int, parent: str | None = None, **facts: Any) -> Order:
        """What the walk would ask of the ledger."""
        self._calls += 1
        tenant, _, run_id = run.rpartition("~")
        line = [run] if parent is None else [run, parent]
        return Order(
            id=f"c{self._calls}/1",
            call_id=f"c{self._calls}",
            run=RunFacts(run, run_id, tenant, "header", parent=parent, **facts),
            charges=tuple(Charge(f"run/{key}/nusd", "nusd", want, want, BUDGET.limit, BUDGET.most) for key in line),
            at=self.clock.now(),
            deadline_at=self.clock.now() + 3660,
            gates=(
                *(f"run/{key}" for key in line),
                *([f"agent/{facts['agent']}"] if "agent" in facts else []),
                "global",
            ),
        )

    async def call(self, run: str, cost: int, parent: str | None = None, **facts: Any) -> Exchange:
        """One call that is done."""
        fields = facts.pop("exchange", {})
        order = self.order(run, cost, parent, **facts)
        granted = await self.store.reserve(order)
        assert isinstance(granted, Reservation)
        now = self.clock.now()
        exchange = Exchange(
            call_id=order.call_id,
            run=run,
            step=granted.step,
            dialect="openai-chat",
            provider="openai",
            operation="chat",
            request_model="gpt-4o",
            stream=True,
            started_at=now,
            first_at=now + 0.25,
            ended_at=now + 0.5,
            status=200,
            cost_nusd=cost,
            cost_source="price_list",
            usage=Usage(input_tokens=10, output_tokens=5),
            attempts=[Attempt("openai", "gpt-4o", 200, "ok", cost, now, now + 0.5)],
            **fields,
        )
        self.clock.advance(1)
        await self.store.settle(order.id, {"nusd": cost}, exchange)
        return exchange


OPEN = Surface(budgets=(BUDGET,), hosts=LOOPBACK)


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """On loopback, without a token, over each store."""
    async with House(OPEN, tmp_path / "ledger.sqlite3" if request.param == "sqlite" else None) as made:
        yield made


# --------------------------------------------------------------------------- who may


@pytest.mark.parametrize("hosts", [LOOPBACK, None])
async def test_every_route_needs_the_token(hosts: frozenset[str] | None) -> None:
    """The whole table is walked without credentials: only health answers, unknown paths and methods don't either."""
    async with House(Surface(token=Secret(TOKEN), hosts=hosts)) as house:
        paths = [(route.method, route.path.replace("{id}", "r"), route.open) for route in ROUTES]
        paths += [("GET", "/api", False), ("GET", "/api/nothing", False), ("DELETE", "/api/runs", False)]
        for method, path, is_open in paths:
            status, said = await house.ask(method, path)
            assert ((200 if is_open else 401), path) == (status, path)
            if not is_open:
                assert "unauthorized" == said["error"]["code"]


@pytest.mark.parametrize(
    "value", ["", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \udcff", f"Bearer {TOKEN[:-1]}"]
)
async def test_only_the_token_itself_opens(value: str) -> None:
    """A wrong, cut or differently presented token is refused, bytes that are no text too."""
    async with House(Surface(token=Secret(TOKEN))) as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.runner.addresses[0][1])
        raw = value.encode("utf-8", "surrogateescape")
        writer.write(b"GET /api/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + raw + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert b" 401 " in answer.split(b"\r\n")[0]
        assert TOKEN.encode() not in answer


async def test_the_token_opens_under_any_name() -> None:
    """Off loopback the Host header decides nothing; the scheme's case is free (RFC 9110 section 11.1)."""
    async with House(Surface(token=Secret(TOKEN))) as house:
        headers = {"Authorization": f"bearer {TOKEN}", "Host": "meterbox.example"}
        assert 200 == (await house.ask("GET", "/api/runs", headers=headers))[0]


async def test_no_name_and_no_token_is_no_control_plane() -> None:
    """There is no default credential: an open listener without a token does not come into being."""
    with pytest.raises(ConfigError, match="admin_token"):
        await House(Surface()).__aenter__()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Host", "evil.example", 403),
        ("Host", "evil.example:8787", 403),
        ("Host", "127.0.0.1.evil.example", 403),
        ("Host", "", 403),
        ("Origin", "https://evil.example", 403),
        ("Origin", "http://localhost:3000", 403),
        ("Origin", "null", 403),
        ("Host", "localhost:8787", 200),
        ("Host", "[::1]:8787", 200),
        ("Host", "LOCALHOST", 200),
    ],
)
async def test_a_foreign_page_is_refused(house: House, name: str, value: str, expected: int) -> None:
    """On loopback a web page in the same browser must not reach `/api` (http.md section 1)."""
    assert expected == (await house.ask("GET", "/api/runs", headers={name: value}))[0]
    assert expected == (await house.ask("POST", "/api/runs", {"run_id": "x"}, headers={name: value}))[0]


async def test_its_own_page_may_ask(house: House) -> None:
    """The same origin is no foreign one."""
    assert 200 == (await house.ask("GET", "/api/runs", headers={"Origin": house.url}))[0]


# --------------------------------------------------------------------------- what was asked


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api", (404, "not_found")),
        ("GET", "/api/runs/", (404, "not_found")),
        ("GET", "/api/nothing", (404, "not_found")),
        ("GET", "/api/findings", (404, "not_found")),
        ("GET", "/api/runs/r/nothing", (404, "not_found")),
        ("GET", "/api/runs/none", (404, "not_found")),
        ("GET", "/api/runs/a%2Fb", (404, "not_found")),
        ("GET", "/api/runs/%ff", (404, "not_found")),
        ("DELETE", "/api/runs", (405, "method_not_allowed")),
        ("POST", "/api/budgets", (405, "method_not_allowed")),
        ("GET", "/api/runs?limit=0", (400, "invalid_request")),
        ("GET", "/api/runs?limit=1001", (400, "invalid_request")),
        ("GET", "/api/runs?limit=ten", (400, "invalid_request")),
        ("GET", "/api/runs?limit=1&limit=2", (400, "invalid_request")),
        ("GET", "/api/runs?agnet=x", (400, "invalid_request")),
        ("GET", "/api/runs?state=dead", (400, "invalid_request")),
        ("GET", "/api/runs?sort=name", (400, "invalid_request")),
        ("GET", "/api/runs?since=yesterday", (400, "invalid_request")),
        ("GET", "/api/runs?cursor=nonsense", (400, "invalid_request")),
        ("GET", "/api/runs/r/calls?cursor=x", (400, "invalid_request")),
        ("GET", "/api/runs/r/calls?cursor=-1", (400, "invalid_request")),
        ("GET", "/api/runs/r/calls?cursor=1_0", (400, "invalid_request")),
        ("GET", "/api/runs/r/calls?cursor=%20", (400, "invalid_request")),
        ("GET", "/api/runs/r/held?cursor=-1", (400, "invalid_request")),
        ("GET", "/api/runs?parent=none", (404, "not_found")),
        ("GET", "/api/budgets?cursor=x", (400, "invalid_request")),
        ("GET", "/api/budgets?cursor=-1", (400, "invalid_request")),
        ("GET", "/api/budgets?cursor=cnVuIDEgbm9ib2R5", (400, "invalid_request")),
        ("GET", "/api/budgets?run=none", (404, "not_found")),
        ("GET", "/api/budgets?scope=run", (400, "invalid_request")),
        ("GET", "/api/runs/r/tools?cursor=-1", (400, "invalid_request")),
    ],
)
async def test_a_wrong_question_gets_a_clear_error(
    house: House, method: str, path: str, expected: tuple[int, str]
) -> None:
    """Errors are JSON with a code and a sentence."""
    await house.call("r", NUSD)
    status, said = await house.ask(method, path)
    assert expected == (status, said["error"]["code"])
    m.Failure.model_validate(said)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"nul\x00l",
        b'{"usd": "1", "usd": "2"}',
        b'{"usd": NaN}',
        b'{"usd": 1e400}',
        b'{"usd": "-1"}',
        b'{"usd": "1e3"}',
        b'{"usd": "0.0000000001"}',
        b'{"usd": "0.1000000000000000000000000000000001"}',
        b'{"usd": 1e-999999999}',
        b'{"usd": true}',
        b'{"usd": "1000001"}',
        b'{"calls": 5.0}',
        b'{"calls": "5"}',
        b'{"tool_calls": true}',
        b'{"tokens": -1}',
        b'{"tokens": 1e3}',
        b'{"seconds": 1000000000001}',
        b'{"usd": "1", "seconds": null, "minutes": 1}',
        b'{"usd": "1", "more": 1}',
        b"{}",
        b"[" * 60_000,
        b'{"usd": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\xff",
    ],
)
async def test_a_wrong_body_changes_nothing(house: House, body: bytes) -> None:
    """What can't be meant, what this version can't enforce, and fields that nobody named get 400."""
    await house.call("r", NUSD)
    status, said = await house.ask("POST", "/api/runs/r/limits", body)
    assert (400, said) == (status, said)
    assert "10" == (await house.get("/api/runs/r"))["limits"]["usd"]


async def test_a_body_is_bounded(house: House) -> None:
    """64 KB and not more, encoded bodies not at all."""
    await house.call("r", NUSD)
    status, said = await house.ask("POST", "/api/runs/r/kill", b" " * 65_537)
    assert (413, "body_too_large") == (status, said["error"]["code"])
    status, said = await house.ask("POST", "/api/runs/r/kill", b"{}", headers={"Content-Encoding": "gzip"})
    assert (415, "unsupported_encoding") == (status, said["error"]["code"])
    assert "active" == (await house.get("/api/runs/r"))["state"]


# --------------------------------------------------------------------------- runs


async def test_a_run_shows_the_ledger_s_money(house: House) -> None:
    """Spent and held come from the account and include descendants; own_spent leaves them out (http.md section 4)."""
    await house.call("parent", 250_000_001, agent="a")
    await house.call("child", NUSD, "parent")
    await house.store.reserve(house.order("child", 5_000_000, "parent"))
    said = await house.get("/api/runs/parent")
    m.RunItem.model_validate(said)
    shown = {name: said[name] for name in ("spent_usd", "own_spent_usd", "held_usd", "overrun_usd", "calls", "agent")}
    assert {
        "spent_usd": "1.250000001",
        "own_spent_usd": "0.250000001",
        "held_usd": "0.005",
        "overrun_usd": "0",
        "calls": 1,
        "agent": "a",
    } == shown
    assert {"usd": "10", "calls": None, "tool_calls": None, "tokens": None, "seconds": None} == said["limits"]
    assert "2027-01-15T08:00:00Z" == said["started_at"]
    assert "parent" == (await house.get("/api/runs/child"))["parent"]


async def test_runs_are_listed_in_pages(house: House) -> None:
    """Every run once, whatever the page size; filters and order hold."""
    for number in range(7):
        await house.call(f"r{number}", NUSD + number, agent="even" if number % 2 == 0 else "odd")
    seen: list[str] = []
    cursor = ""
    while True:
        page = await house.get(f"/api/runs?sort=started_at&limit=2{cursor}")
        m.RunPage.model_validate(page)
        seen += [item["run_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [f"r{number}" for number in range(7)] == seen
    odd = await house.get("/api/runs?agent=odd&sort=-spent_usd")
    assert ["r5", "r3", "r1"] == [item["run_id"] for item in odd["items"]]
    later = await house.get("/api/runs?since=2027-01-15T08:00:05Z&sort=started_at")
    assert ["r5", "r6"] == [item["run_id"] for item in later["items"]]
    assert [] == (await house.get("/api/runs?state=killed"))["items"]


async def test_calls_are_listed_in_order(house: House) -> None:
    """A call shows what it was, what it cost and where the figure comes from."""
    tool = ToolCall("t1", "search", valid=True)
    await house.call("r", 1_500_000, exchange={"tool_calls": [tool], "finish_reason": "tool_calls"})
    await house.call("r", 2)
    page = await house.get("/api/runs/r/calls?limit=1")
    m.CallPage.model_validate(page)
    (first,) = page["items"]
    assert (1, "0.0015", "price_list", 500.0, 250.0) == (
        first["step"],
        first["cost_usd"],
        first["cost_source"],
        first["duration_ms"],
        first["ttft_ms"],
    )
    assert [{"id": "t1", "name": "search", "known": True, "valid": True}] == first["tool_calls"]
    assert {"input_tokens": 10, "output_tokens": 5, "estimated": False} == {
        name: value for name, value in first["usage"].items() if value is not None
    }
    second = (await house.get(f"/api/runs/r/calls?cursor={page['next_cursor']}"))["items"]
    assert ["0.000000002"] == [item["cost_usd"] for item in second]


async def test_tools_are_joined_and_paged(house: House) -> None:
    """Each tool call once, with its result where one was seen."""
    tools = [ToolCall("a", "search"), ToolCall("b", "read")]
    await house.call("r", 1, exchange={"tool_calls": tools})
    house.clock.advance(2)
    await house.call("r", 1, exchange={"results": [Result("a", None, True, 7, 3, 2)]})
    page = await house.get("/api/runs/r/tools?limit=1")
    m.ToolPage.model_validate(page)
    rest = await house.get(f"/api/runs/r/tools?cursor={page['next_cursor']}")
    (done,), (waiting,) = page["items"], rest["items"]
    assert ("a", "search", 1, True, 2500.0) == (
        done["id"],
        done["name"],
        done["step"],
        done["is_error"],
        done["duration_ms"],
    )
    assert ("b", None, None) == (waiting["id"], waiting["ended_at"], rest["next_cursor"])


async def test_a_run_can_be_made_before_its_first_call(house: House) -> None:
    """Its source is `api`; the lower of configuration and request is in force; the same id again is 409."""
    made = await house.post("/api/runs", {"run_id": "r", "agent": "a", "user": "u", "limits": {"usd": "0.5"}})
    assert ("r", "api", "a", "u", "0.5", "active") == (
        made["run_id"],
        made["source"],
        made["agent"],
        made["user"],
        made["limits"]["usd"],
        made["state"],
    )
    assert 409 == (await house.ask("POST", "/api/runs", {"run_id": "r"}))[0]
    child = await house.post("/api/runs", {"parent": "r", "limits": {"usd": 15}})
    assert ("r", "10") == (child["parent"], child["limits"]["usd"])
    assert 404 == (await house.ask("POST", "/api/runs", {"parent": "none"}))[0]
    assert 400 == (await house.ask("POST", "/api/runs", {"run_id": "a/b"}))[0]
    refused = await house.store.reserve(house.order("r", NUSD, agent="a", user="u"))
    assert isinstance(refused, Denied)
    assert 500_000_000 == refused.balance.limit if refused.balance else None


async def test_limits_rise_no_higher_than_configured(house: House) -> None:
    """Lower always, also below what is used; higher up to max_usd; above that 400 states the most."""
    await house.call("r", NUSD)
    assert "20" == (await house.post("/api/runs/r/limits", {"usd": "20"}))["limits"]["usd"]
    status, said = await house.ask("POST", "/api/runs/r/limits", {"usd": "20.000000001"})
    assert (400, "limit_too_high") == (status, said["error"]["code"])
    assert "$20 " in said["error"]["message"]
    assert "0.000000001" == (await house.post("/api/runs/r/limits", {"usd": "0.000000001"}))["limits"]["usd"]
    assert isinstance(await house.store.reserve(house.order("r", 1)), Denied)


async def test_limits_in_every_unit() -> None:
    """The lower of configuration and request is in force, a rise ends at the configured limit, and nothing is changed
    where one of several can't be; a unit without a configured limit takes any."""
    budgets = (BUDGET, Budget("few", limit=50, most=50, unit="calls"), Budget("fewer", limit=40, most=60, unit="calls"))
    watch = Budget("watch", limit=1, most=1, unit="tokens", mode="shadow")
    async with House(Surface(budgets=(*budgets, watch), hosts=LOOPBACK)) as house:
        asked = {"usd": "2", "calls": 7, "tool_calls": 8, "tokens": 9, "seconds": 10}
        made = await house.post("/api/runs", {"run_id": "r", "limits": asked})
        assert asked == made["limits"] == (await house.get("/api/runs"))["items"][0]["limits"]
        made = await house.post("/api/runs", {"run_id": "s", "limits": {"calls": 1000, "tokens": 1000}})
        assert {"usd": "10", "calls": 40, "tool_calls": None, "tokens": 1000, "seconds": None} == made["limits"]
        assert 50 == (await house.post("/api/runs/s/limits", {"calls": 50}))["limits"]["calls"]
        for body, words in (
            ({"usd": "1", "calls": 51}, "at most 50 calls for one run"),
            ({"usd": "20.5", "calls": 1}, r"at most $20 for one run"),
        ):
            status, said = await house.ask("POST", "/api/runs/r/limits", body)
            assert (400, "limit_too_high") == (status, said["error"]["code"])
            assert words in said["error"]["message"]
        assert asked == (await house.get("/api/runs/r"))["limits"]


async def test_a_limit_below_use_pauses_and_one_above_lets_go_on(house: House) -> None:
    """The answer says so: state and reason; every unit for itself."""
    await house.call("r", NUSD)
    said = await house.post("/api/runs/r/limits", {"usd": "0.5"})
    assert ("paused", "0.5", "1") == (said["state"], said["limits"]["usd"], said["spent_usd"])
    assert "below what it has used" in said["reason"]
    said = await house.post("/api/runs/r/limits", {"usd": "2"})
    assert ("active", None, "2") == (said["state"], said["reason"], said["limits"]["usd"])
    house.clock.advance(30)
    assert "paused" == (await house.post("/api/runs/r/limits", {"seconds": 20}))["state"]
    assert "active" == (await house.post("/api/runs/r/limits", {"seconds": 100}))["state"]


async def test_a_limit_counts_what_was_done_before_it(house: House) -> None:
    """Also in a unit that no budget counted: below it the run is paused, above it as much is left as is left."""
    for _ in range(3):
        await house.call("r", NUSD)
    said = await house.post("/api/runs/r/limits", {"calls": 2})
    assert ("paused", 2, 3) == (said["state"], said["limits"]["calls"], said["calls"])
    assert "paused" == (await house.post("/api/runs/r/limits", {"tokens": 44}))["state"]  # of 45
    assert "paused" == (await house.post("/api/runs/r/limits", {"calls": 4}))["state"]
    assert "active" == (await house.post("/api/runs/r/limits", {"tokens": 46}))["state"]
    found = house.store.reading().standings(["run/r/calls", "run/r/tokens"])
    assert [3, 45] == [found[name].spent for name in ("run/r/calls", "run/r/tokens")]


async def test_calls_under_way_are_listed(house: House) -> None:
    """The run's own and its descendants', the oldest first: what each holds, since when, until when at most."""
    await house.call("root", NUSD)
    first = house.order("root", 250_000_000)
    await house.store.reserve(first)
    house.clock.advance(5)
    second = house.order("child", 1, "root")
    await house.store.reserve(second)
    page = await house.get("/api/runs/root/held?limit=1")
    m.HeldPage.model_validate(page)
    (mine,) = page["items"]
    assert (first.call_id, "root", "0.25", "2027-01-15T08:00:01Z") == tuple(
        mine[name] for name in ("call_id", "run_id", "held_usd", "started_at")
    )
    rest = await house.get(f"/api/runs/root/held?cursor={page['next_cursor']}")
    assert [("child", "0.000000001")] == [(item["run_id"], item["held_usd"]) for item in rest["items"]]
    assert [] == (await house.get("/api/runs/root/held?cursor=2"))["items"]


async def test_children_are_listed_by_their_parent(house: House) -> None:
    """Only its own, with what each spent."""
    await house.call("root", NUSD)
    await house.call("a", 2 * NUSD, "root")
    await house.call("b", 3 * NUSD, "root")
    await house.call("other", NUSD)
    page = await house.get("/api/runs?parent=root&sort=-spent_usd")
    assert [("b", "3"), ("a", "2")] == [(item["run_id"], item["spent_usd"]) for item in page["items"]]


async def test_a_run_is_ended_by_its_owner(house: House) -> None:
    """With outcome and reason; a killed run stays killed."""
    await house.call("r", NUSD)
    said = await house.post("/api/runs/r/end", {"outcome": "gave_up", "reason": "no idea"})
    assert ("ended", "gave_up", "no idea") == (said["state"], said["outcome"], said["reason"])
    await house.post("/api/runs/r/kill", {"reason": "stop"})
    assert 409 == (await house.ask("POST", "/api/runs/r/end", {}))[0]
    assert 400 == (await house.ask("POST", "/api/runs/r/end", {"outcome": "killed"}))[0]


async def test_notes_go_to_the_journal(house: House) -> None:
    """Transitions and feedback are kept as they were said."""
    await house.call("r", NUSD)
    await house.post("/api/runs/r/transition", {"to": "planning", "reason": "start"})
    await house.post("/api/runs/r/feedback", {"score": 0.5, "comment": "so so"})
    events = await listen(house, "/api/runs/r/events", 4)
    assert ["run", "call", "transition", "feedback"] == [event["event"] for event in events]
    assert {"to": "planning", "reason": "start"} == events[2]["data"]["data"]


# --------------------------------------------------------------------------- stop and go


def opened(house: House, call_id: str, *line: str, agent: str | None = None) -> OpenCall:
    """A call that is open right now."""
    call = OpenCall(call_id, line, agent, None)
    house.live.enter(call)
    return call


async def test_a_kill_takes_the_descendants(house: House) -> None:
    """Their streams end with the reason, later calls are refused, their state is killed; siblings go on."""
    await house.call("root", NUSD)
    await house.call("child", NUSD, "root")
    await house.call("other", NUSD)
    mine, childs, others = (
        opened(house, "1", "root"),
        opened(house, "2", "child", "root"),
        opened(house, "3", "other"),
    )
    said = await house.post("/api/runs/root/kill", {"reason": "too dear"})
    assert ("killed", "killed", "too dear") == (said["state"], said["outcome"], said["reason"])
    assert [True, True, False] == [call.refusal is not None for call in (mine, childs, others)]
    assert mine.refusal is not None
    assert "too dear" in mine.refusal.message
    assert "killed" == (await house.get("/api/runs/child"))["state"]
    for run, parent in (("root", None), ("child", "root"), ("fresh", "root")):
        denied = await house.store.reserve(house.order(run, 1, parent))
        assert isinstance(denied, Denied)
        assert ("closed", "too dear") == (denied.reason, denied.why)
    assert isinstance(await house.store.reserve(house.order("other", 1)), Reservation)


async def test_resume_brings_back_what_that_kill_stopped(house: House) -> None:
    """What was spent stays; a child that was killed by itself before stays killed."""
    await house.call("root", NUSD)
    await house.call("child", NUSD, "root")
    await house.call("bad", NUSD, "root")
    await house.post("/api/runs/bad/kill", {"reason": "its own"})
    house.clock.advance(1)
    await house.post("/api/runs/root/kill", {"reason": "all"})
    said = await house.post("/api/runs/root/resume")
    assert ("active", "3") == (said["state"], said["spent_usd"])
    states = [(await house.get(f"/api/runs/{run}"))["state"] for run in ("child", "bad")]
    assert ["active", "killed"] == states
    assert isinstance(await house.store.reserve(house.order("child", 1, "root")), Reservation)
    assert isinstance(await house.store.reserve(house.order("bad", 1, "root")), Denied)


async def test_the_kill_switch_stops_an_agent(house: House) -> None:
    """Its runs are killed, its streams end, new runs are refused until resume; killed runs stay so."""
    await house.call("a1", NUSD, agent="a")
    await house.call("b1", NUSD, agent="b")
    call = opened(house, "1", "a1", agent="a")
    said = await house.post("/api/kill", {"agent": "a", "reason": "leak"})
    assert {"gate": "agent/a", "open": False, "runs": 1, "calls": 1} == said
    assert call.refusal is not None
    states = [(await house.get(f"/api/runs/{run}"))["state"] for run in ("a1", "b1")]
    assert ["killed", "active"] == states
    assert isinstance(await house.store.reserve(house.order("a2", 1, agent="a")), Denied)
    assert isinstance(await house.store.reserve(house.order("b1", 1, agent="b")), Reservation)
    await house.post("/api/resume", {"agent": "a"})
    assert isinstance(await house.store.reserve(house.order("a2", 1, agent="a")), Reservation)
    assert isinstance(await house.store.reserve(house.order("a1", 1, agent="a")), Denied)


async def test_the_kill_switch_stops_all(house: House) -> None:
    """Every live run, more than one page of them."""
    for number in range(130):
        await house.store.make_run(RunFacts(f"r{number}", f"r{number}", "", "api"), house.clock.now())
    assert 130 == (await house.post("/api/kill", {"all": True}))["runs"]
    assert 130 == len((await house.get("/api/runs?state=killed&limit=1000"))["items"])
    assert isinstance(await house.store.reserve(house.order("new", 1)), Denied)


@pytest.mark.parametrize("body", [{}, {"all": False}, {"all": True, "agent": "a"}, {"agent": "a", "user": "u"}])
async def test_the_kill_switch_names_exactly_one_target(house: House, body: dict[str, Any]) -> None:
    """An empty or a double target stops nobody."""
    await house.call("r", NUSD, agent="a")
    assert 400 == (await house.ask("POST", "/api/kill", body))[0]
    assert "active" == (await house.get("/api/runs/r"))["state"]


async def test_a_change_outlives_its_caller(house: House) -> None:
    """A client that leaves in the middle of a kill doesn't leave half a kill."""
    await house.call("r", NUSD)
    reached, go_on = asyncio.Event(), asyncio.Event()
    close = house.store.close_account

    async def slow(gate: str, reason: str) -> None:
        reached.set()
        await go_on.wait()
        await close(gate, reason)

    house.store.close_account = slow  # type: ignore[method-assign]  # a store that takes its time
    _, writer = await asyncio.open_connection("127.0.0.1", house.runner.addresses[0][1])
    writer.write(b"POST /api/runs/r/kill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await reached.wait()
    writer.close()
    await house.left.wait()
    go_on.set()
    await house.tasks.drain(5)
    assert "killed" == (await house.get("/api/runs/r"))["state"]


# --------------------------------------------------------------------------- events


async def told(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Events as they come."""
    block: dict[str, Any] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            block[name] = json.loads(value) if name == "data" else value
        elif block:
            yield block
            block = {}


async def listen(house: House, path: str, count: int, last: str | None = None) -> list[dict[str, Any]]:
    """The first events of a stream."""
    headers = {} if last is None else {"Last-Event-ID": last}
    async with house.client.get(house.url + path, headers=headers) as answer:
        assert "text/event-stream" == answer.content_type
        stream = told(answer)
        found = [await anext(stream) for _ in range(count)]
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator has it
    return found


async def test_events_come_once_and_as_they_happen(house: House) -> None:
    """A listener that stays hears what happens later, and nothing twice."""
    await house.call("r", NUSD)
    async with house.client.get(house.url + "/api/runs/r/events") as answer:
        stream = told(answer)
        assert ["run", "call"] == [(await anext(stream))["event"] for _ in range(2)]
        for cost in (2, 3):
            await house.call("r", cost)
            assert f"0.00000000{cost}" == (await anext(stream))["data"]["data"]["cost_usd"]
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator has it


async def test_events_leave_out_what_was_captured(house: House) -> None:
    """Hashes of messages are nothing that a listener can use; what comes behind them is told."""
    await house.call("r", NUSD)
    house.store.remember(Content("c", "r", input=("hash",)), lambda: None)
    await house.call("r", 2)
    assert ["run", "call", "call"] == [one["event"] for one in await listen(house, "/api/runs/r/events", 3)]


async def test_listeners_are_counted(house: House) -> None:
    """One above the limit gets 503; as soon as one leaves, there is room."""
    await house.call("r", NUSD)
    url = house.url + "/api/runs/r/events"
    here = [await house.client.get(url) for _ in range(MOST_LISTENERS)]
    assert {200} == {answer.status for answer in here}
    assert 503 == (await house.ask("GET", "/api/runs/r/events"))[0]
    here.pop().close()
    for _ in range(1000):  # until the server has seen that it left
        answer = await house.client.get(url)
        answer.close()
        if answer.status == 200:
            break
    assert 200 == answer.status
    for answer in here:
        answer.close()


async def test_events_go_on_where_they_were_left(house: House) -> None:
    """The id is the journal's number: nothing twice, nothing lost, what comes later too."""
    await house.call("r", NUSD)
    await house.call("other", NUSD)
    first = await listen(house, "/api/runs/r/events", 2)
    assert ["run", "call"] == [event["event"] for event in first]
    assert "1" == first[1]["data"]["data"]["cost_usd"]
    m.CallItem.model_validate(first[1]["data"]["data"])
    waiting = asyncio.ensure_future(listen(house, "/api/runs/r/events", 1, first[-1]["id"]))
    await house.call("r", 2)
    (later,) = await waiting
    assert "0.000000002" == later["data"]["data"]["cost_usd"]
    await house.post("/api/runs/r/limits", {"usd": "3"})
    (limit,) = await listen(house, "/api/runs/r/events", 1, later["id"])
    assert {"account": "run/r/nusd", "limit_usd": "3"} == limit["data"]["data"]


@pytest.mark.parametrize("last", ["x", "-1", "1e3", "9" * 19, "9" * 400])
async def test_a_wrong_last_event_id_is_refused(house: House, last: str) -> None:
    """It is a number that we gave."""
    await house.call("r", NUSD)
    assert 400 == (await house.ask("GET", "/api/runs/r/events", headers={"Last-Event-ID": last}))[0]


# --------------------------------------------------------------------------- tenants, budgets, health


async def test_a_key_selects_where_ids_are_not_unique() -> None:
    """Two keys may have the same run id: without ?key= that is 409, with it each sees its own."""
    async with House(Surface(budgets=(BUDGET,), hosts=LOOPBACK, tenants=("ann", "bob"))) as house:
        await house.call("ann~r", NUSD)
        await house.call("bob~r", 2 * NUSD)
        await house.call("bob~only", NUSD)
        assert 409 == (await house.ask("GET", "/api/runs/r"))[0]
        assert ["1", "2"] == [(await house.get(f"/api/runs/r?key={key}"))["spent_usd"] for key in ("ann", "bob")]
        assert "bob" == (await house.get("/api/runs/only"))["key"]
        assert 404 == (await house.ask("GET", "/api/runs/only?key=ann"))[0]
        page = await house.get("/api/runs?key=bob&limit=1")
        rest = await house.get(f"/api/runs?key=bob&limit=1&cursor={page['next_cursor']}")
        assert {"r", "only"} == {item["run_id"] for item in page["items"] + rest["items"]}
        assert 400 == (await house.ask("POST", "/api/runs", {"run_id": "n"}))[0]
        assert "ann" == (await house.post("/api/runs?key=ann", {"run_id": "n"}))["key"]
        assert 404 == (await house.ask("POST", "/api/runs?key=eve", {"run_id": "n"}))[0]
        await house.post("/api/runs/r/kill?key=ann", {})
        states = [(await house.get(f"/api/runs/r?key={key}"))["state"] for key in ("ann", "bob")]
        assert ["killed", "active"] == states


async def test_budgets_show_every_account(house: House) -> None:
    """With the limit in force and when it would be used up at this pace."""
    await house.call("r", 5 * NUSD)
    await house.post("/api/runs/r/limits", {"usd": "7.5"})
    page = await house.get("/api/budgets")
    m.BudgetPage.model_validate(page)
    (item,) = page["items"]
    assert ("each-run", "run", "run/r/nusd", "usd", "run", "strict", "7.5", "5", "0", "0") == tuple(
        item[name] for name in ("name", "scope", "account", "unit", "per", "mode", "limit", "spent", "held", "overrun")
    )
    assert "2027-01-15T08:00:01.500000Z" == item["exhausted_at"]  # 5 in the first second, 2.5 to go
    assert (item["window_started_at"], None) == ("2027-01-15T08:00:00Z", item["resets_at"])


async def test_ready_only_while_calls_are_served(house: House) -> None:
    """A ledger that can't be written makes /readyz 503; /livez stays 200."""
    assert {"status": "ready"} == await house.get("/readyz")
    house.store.failed = lambda: "disk full"  # type: ignore[method-assign]  # a store that has failed
    assert 503 == (await house.ask("GET", "/readyz"))[0]
    assert {"status": "alive"} == await house.get("/livez")


async def test_a_ledger_that_fails_is_said(house: House) -> None:
    """503 with Retry-After, as JSON."""
    await house.call("r", NUSD)

    async def broken(gate: str, reason: str) -> None:
        raise StoreFailed("disk full")

    house.store.close_account = broken  # type: ignore[method-assign]  # a store that has failed
    status, said = await house.ask("POST", "/api/runs/r/kill", {})
    assert (503, "store_unavailable") == (status, said["error"]["code"])


async def test_the_description_names_every_route(house: House) -> None:
    """openapi.json is made from the table and the models that answer; every reference in it leads somewhere."""
    page = await house.get("/api/openapi.json")
    assert {(route.method, route.path) for route in ROUTES} == {
        (method.upper(), path) for path, methods in page["paths"].items() for method in methods
    }
    text = json.dumps(page)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in page["components"]["schemas"]
