"""Claims about `/api/alerts`: what the sending process knows, and what people answer, over HTTP and a real notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import UpstreamFailed
from gateway.core.telemetry.alerts.episodes import Message
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import AlertRules, Channel
from gateway.edge import api_alert_models as m
from gateway.edge.admin import Surface
from gateway.edge.api_door import LOOPBACK
from gateway.projections.alerts import Alerts
from gateway.stores.notebook import SqliteNotebook
from tests.edge.test_admin import House
from tests.ledgers import exchange
from tests.receiver import SECRET, receiving, until


class Phone:
    """A channel that takes what it is told unless it fails."""

    name = "phone"
    fails = False

    def send(self, message: Message, left_out: int) -> None:
        if self.fails:
            raise UpstreamFailed("it answered 500")


class Desk(House):
    """A control plane, and the projection that writes the notebook which it reads."""

    def __init__(self, folder: Path, rules: AlertRules | None = None) -> None:
        file = folder / "projections" / "alerts.sqlite3"
        super().__init__(Surface(hosts=LOOPBACK, alerts=file, alert_rules=rules))
        self.phone = Phone()
        self.book = SqliteNotebook(file)
        rules = AlertRules(burn_per_h_nusd=None)
        self.alerts = Alerts((self.book, self.store.reading()), rules, [self.phone], Health(), self.clock)

    async def stop(self, *runs: str) -> None:
        """These runs are refused by a budget, and the projection reads it."""
        for run in runs:
            self.clock.advance(1)
            call = exchange(f"x-{run}", 0, source="refused", run=run, reason="insufficient_quota")
            await self.store.settle(None, None, call)
        self.read()

    def read(self) -> None:
        while entries := self.store.reading().entries(self.alerts.cursor, limit=500):
            self.alerts.apply(entries)

    def turn(self) -> bool:
        """What became of the messages is written down."""
        self.alerts.tick(self.clock.now())
        return not self.alerts._busy and not list(self.book.all("row/"))

    async def items(self) -> list[dict[str, Any]]:
        """The list, checked against its model."""
        page = m.AlertPage.model_validate(await self.get("/api/alerts"))
        return [item.model_dump() for item in page.items]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open for a test."""
    async with Desk(tmp_path) as one:
        yield one
        one.alerts.close()
        one.book.close()


async def test_an_alert_is_listed_with_its_labels_its_commands_and_its_deliveries(desk):
    """http.md section 5, word for word."""
    await desk.stop("R")
    until(desk.turn)
    (item,) = await desk.items()
    assert {"alertname": "run_stopped", "severity": "warning", "run_id": "R"} == item["labels"]
    alert_id = item["alert_id"]
    assert {
        "summary": "Run R was stopped by its budget (money); calls are refused.",
        "stop": "meterbox kill R",
        "look": "meterbox runs show R",
        "mute": f"meterbox alerts mute {alert_id}",
    } == item["annotations"]
    assert ("firing", None, None) == (item["state"], item["muted_until"], item["acked_at"])
    assert item["first_at"] == item["last_at"] == datetime.fromtimestamp(desk.clock.at, UTC).isoformat()[:19] + "Z"
    (delivery,) = item["deliveries"]
    assert ("phone", "delivered", 1, None) == tuple(
        delivery[word] for word in ("channel", "state", "attempts", "last_error")
    )


async def test_a_delivery_that_fails_says_why(desk):
    """The channel's own last word."""
    desk.phone.fails = True
    await desk.stop("R")
    until(lambda: (desk.turn(), "phone" in desk.alerts._counts)[1])
    ((delivery,),) = [item["deliveries"] for item in await desk.items()]
    assert ("pending", 1, "it answered 500") == (delivery["state"], delivery["attempts"], delivery["last_error"])


async def test_the_list_comes_in_pages_the_latest_first(desk):
    """Every alert once, whatever came meanwhile."""
    await desk.stop(*(f"r{number}" for number in range(7)))
    seen: list[str] = []
    page = await desk.get("/api/alerts?limit=3")
    await desk.stop("later")
    while True:
        seen += [item["labels"]["run_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        page = await desk.get(f"/api/alerts?limit=3&cursor={page['next_cursor']}")
    assert [f"r{number}" for number in range(6, -1, -1)] == seen
    assert 400 == (await desk.ask("GET", "/api/alerts?cursor=nonsense"))[0]


async def test_where_nothing_was_ever_told_the_list_is_empty(tmp_path):
    """No process of projections yet: no file, no error, and no alert to answer."""
    async with House(Surface(hosts=LOOPBACK, alerts=tmp_path / "none.sqlite3")) as house:
        assert {"items": [], "next_cursor": None} == await house.get("/api/alerts")
        assert 404 == (await house.ask("POST", "/api/alerts/al_1/ack"))[0]
    async with House(Surface(hosts=LOOPBACK)) as house:
        assert [] == (await house.get("/api/alerts"))["items"]
        assert {"items": []} == await house.post("/api/alerts/test")


async def test_the_list_is_there_while_no_process_writes_it(desk):
    """A clean end, or a dead one: what was told can be read."""
    await desk.stop("R")
    desk.alerts.close()
    desk.book.close()
    assert 1 == len(await desk.items())
    desk.book = SqliteNotebook(desk.book.path)


async def test_a_mute_counts_at_once_and_lasts(desk):
    """Before the other process has read it, and afterwards; an instant that has passed takes it back."""
    await desk.stop("R")
    (item,) = await desk.items()
    path = f"/api/alerts/{item['alert_id']}/mute"
    until_at = datetime.fromtimestamp(desk.clock.at + 3600, UTC).isoformat()
    said = m.AlertNoted.model_validate(await desk.post(path, {"until": until_at}))
    assert item["alert_id"] == said.alert_id
    for _ in range(2):
        (muted,) = await desk.items()
        assert ("muted", until_at[:19] + "Z") == (muted["state"], muted["muted_until"])
        desk.read()
    await desk.post(path, {"until": "2020-01-01T00:00:00+02:00"})
    for _ in range(2):
        assert "firing" == (await desk.items())[0]["state"]
        desk.read()


async def test_an_ack_is_noted_once(desk):
    """When the first one came; both are entries of the journal, of no run."""
    await desk.stop("R")
    (item,) = await desk.items()
    path = f"/api/alerts/{item['alert_id']}/ack"
    await desk.post(path)
    desk.clock.advance(5)
    first = (await desk.items())[0]["acked_at"]
    desk.read()
    await desk.post(path)
    assert first == (await desk.items())[0]["acked_at"] is not None
    entries = [entry for entry in desk.store.reading().entries(0) if entry.kind == "ack"]
    assert ["", ""] == [entry.run for entry in entries]


@pytest.mark.parametrize(
    "body", [{}, {"until": 17}, {"until": "soon"}, {"until": "2026-01-01"}, {"until": "2026-01-01T00:00:00Z", "x": 1}]
)
async def test_a_mute_names_an_instant(desk, body):
    """400 with the field; nothing is written."""
    await desk.stop("R")
    (item,) = await desk.items()
    status, said = await desk.ask("POST", f"/api/alerts/{item['alert_id']}/mute", body)
    assert (400, "invalid_request") == (status, said["error"]["code"])
    assert [] == [entry for entry in desk.store.reading().entries(0) if entry.kind == "mute"]


async def test_an_unknown_alert_is_not_found(desk):
    """Also a strange id; nothing is written."""
    for alert_id in ("al_000000000000000", "x" * 500, "%2e%2e"):
        for word, body in (("mute", {"until": "2030-01-01T00:00:00Z"}), ("ack", None)):
            assert 404 == (await desk.ask("POST", f"/api/alerts/{alert_id}/{word}", body))[0]


async def test_a_test_is_sent_to_every_channel_and_says_which_took_it():
    """Signed, as any message; one channel that fails holds up no other."""
    with receiving() as well, receiving() as ill:
        ill.answers = [500]
        rules = AlertRules(
            (Channel("well", well.url, SECRET, local=True), Channel("ill", ill.url, SECRET, local=True)),
        )
        async with House(Surface(hosts=LOOPBACK, alert_rules=rules)) as house:
            said = m.Trials.model_validate(await house.post("/api/alerts/test"))
    assert [("well", True, None), ("ill", False, "it answered 500")] == [
        (item.channel, item.taken, item.error) for item in said.items
    ]
    (post,) = well.posts
    assert "test" == post.body["commonLabels"]["alertname"]
    assert post.headers["webhook-id"] == ill.posts[0].headers["webhook-id"] or post.id.startswith("msg_")


def _waited(event: threading.Event) -> None:
    assert event.wait(20)


async def test_a_test_that_is_under_way_is_not_doubled():
    """503 for the second; a channel that can't be made is said."""
    go = threading.Event()
    with receiving() as slow:
        slow.before = partial(_waited, go)
        rules = AlertRules((Channel("slow", slow.url, local=True),))
        async with House(Surface(hosts=LOOPBACK, alert_rules=rules)) as house:
            first = asyncio.ensure_future(house.post("/api/alerts/test"))
            while not house.control._trying:  # noqa: ASYNC110  there is no event to wait for
                await asyncio.sleep(0.005)
            status, said = await house.ask("POST", "/api/alerts/test")
            go.set()
            assert (503, "overloaded") == (status, said["error"]["code"])
            assert (await first)["items"][0]["taken"]
    async with House(Surface(hosts=LOOPBACK, alert_rules=AlertRules((Channel("bad", "nonsense://x"),)))) as house:
        (item,) = (await house.post("/api/alerts/test"))["items"]
        assert not item["taken"]
        assert "apprise doesn't know" in item["error"]
