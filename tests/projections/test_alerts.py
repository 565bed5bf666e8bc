"""Claims about the alerts projection, over real notebooks, a real ledger and a real webhook receiver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from gateway.core.errors import UpstreamFailed
from gateway.core.telemetry.alerts.episodes import Message
from gateway.core.telemetry.alerts.outbox import GIVE_UP_S, MOST_ROWS, Row, Sender
from gateway.core.telemetry.alerts.webhook import trial
from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import AlertRules, Channel
from gateway.edge.channels import Webhook, senders
from gateway.edge.clock import SystemClock
from gateway.projections.alerts import BEHIND_S, HISTORY_S, PASSED_MOST, Alerts, Courier, Result
from gateway.stores.memory import MemoryStore
from gateway.stores.notebook import SqliteNotebook
from tests.fakes import FakeClock
from tests.ledgers import exchange
from tests.receiver import SECRET, Receiver, receiving, until, verified

CALM = AlertRules(burn_per_h_nusd=None)


class Recorded:
    """A channel that remembers; `fails` is what it raises, `gate` what it waits for."""

    def __init__(self, name: str = "phone") -> None:
        self.name = name
        self.fails: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.told: list[tuple[str, str, int]] = []  # id, summary, left out
        self.tries = 0

    def send(self, message: Message, left_out: int) -> None:
        self.tries += 1
        assert self.gate.wait(20)
        if self.fails is not None:
            raise self.fails
        self.told.append((message.message_id, message.annotations["summary"], left_out))


class House:
    """A ledger in memory, a notebook on disk, a projection, and its driver's part played by hand."""

    def __init__(self, folder: Path, *senders: Sender, rules: AlertRules = CALM, clock: Any = None) -> None:
        self.folder = folder
        self.clock = clock or FakeClock()
        self.store = MemoryStore(self.clock.now)
        self.reading = self.store.reading()
        self.senders = senders
        self.rules = rules
        self.health = Health()
        self.start()

    def start(self) -> None:
        """As after a restart: everything that is known lies in the notebook."""
        self.notebook = SqliteNotebook(self.folder / "alerts.sqlite3")
        sources = (self.notebook, self.reading)
        self.alerts = Alerts(sources, self.rules, self.senders, self.health, self.clock)

    def die(self) -> None:
        """What is not in the file is lost."""
        self.alerts.close()
        self.notebook.close()

    async def refuse(self, run: str = "R", times: int = 1) -> None:
        """Calls that a budget refused."""
        for number in range(times):
            call = exchange(f"{run}{number}{self.clock.at}", 0, source="refused", run=run, reason="insufficient_quota")
            await self.store.settle(None, None, call)

    def read(self) -> None:
        """Hands on everything that is new, as the driver does."""
        while entries := self.reading.entries(self.alerts.cursor, limit=500):
            self.alerts.apply(entries)

    def turn(self, seconds: float = 0.0) -> float:
        """Time passes, and it is asked."""
        self.clock.at += seconds
        return self.alerts.tick(self.clock.now())

    def settle(self, sender: Recorded, tries: int) -> None:
        """Waits until the channel was tried so often and all of that is written down."""
        until(lambda: self.turn() is not None and sender.tries >= tries and not self.alerts._busy)

    def posted(self, receiver: Receiver, count: int) -> None:
        """Waits until so many came, and what was answered is written down."""
        until(lambda: self.turn() is not None and len(receiver.posts) >= count and not self.alerts._busy)

    def deliveries(self) -> list[tuple[str, str, int, str]]:
        """(channel, state, attempts, last error) of all episodes."""
        return [
            (one.channel, one.state, one.attempts, one.last_error)
            for episode in self.alerts._episodes.by_id.values()
            for one in episode.deliveries
        ]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody else's server."""
    with receiving() as one:
        yield one


def hook(receiver: Receiver, name: str = "hook") -> Webhook:
    """A channel to it, by the machine's own clock."""
    return Webhook(Channel(name, receiver.url, SECRET, local=True), (), SystemClock())


async def test_a_message_is_sent_once_signed_and_its_delivery_noted(tmp_path, receiver):
    """From the journal's entry to a receiver that verifies the signature; nothing of it waits afterwards."""
    house = House(tmp_path, hook(receiver))
    await house.refuse()
    house.read()
    until(lambda: house.turn() is not None and bool(house.deliveries()) and house.deliveries()[0][1] == "delivered")
    (post,) = receiver.posts
    assert verified(post.headers, post.raw)
    assert ("/hook?team=a%20b", "application/json") == (post.path, post.headers["content-type"])
    assert ("firing", "Run R was stopped by its budget (money); calls are refused.") == post.said
    assert [("hook", "delivered", 1, "")] == house.deliveries()
    assert [] == list(house.notebook.all("row/"))
    house.turn()
    assert (1, None) == (house.health.of("alerts-hook").sent, house.health.of("alerts-hook").oldest_at)


async def test_what_fails_is_sent_again_with_the_same_id_and_alerts(tmp_path, receiver):
    """500, a redirect, 404, then 200: first after at most 5 s, later and later; each signed anew."""
    receiver.answers = [500, 302, 404, 200]
    receiver.location = receiver.url
    house = House(tmp_path, hook(receiver))
    await house.refuse()
    house.read()
    for number, seconds in enumerate((5, 10, 20, 40), 1):
        house.posted(receiver, number)
        house.turn(seconds)
    assert [500, 302, 404, 200] == [post.status for post in receiver.posts]
    assert 1 == len({post.id for post in receiver.posts})
    assert 1 == len({post.raw for post in receiver.posts})
    assert all(verified(post.headers, post.raw) for post in receiver.posts)
    until(lambda: house.turn() is not None and house.deliveries()[0][1] == "delivered")
    assert [("hook", "delivered", 4, "it answered 404")] == house.deliveries()


async def test_after_a_restart_amid_delivery_the_message_has_the_same_id(tmp_path, receiver):
    """It was taken, and nobody wrote that down: it comes again, the same to the letter; a resolved run is told too."""
    house = House(tmp_path, hook(receiver))
    await house.refuse()
    house.read()
    until(lambda: len(receiver.posts) == 1)
    house.die()  # before a tick noted what came of it
    house.start()
    house.turn()
    until(lambda: len(receiver.posts) == 2)
    assert receiver.posts[0].id == receiver.posts[1].id
    assert receiver.posts[0].raw == receiver.posts[1].raw
    until(lambda: house.turn() is not None and house.deliveries()[0][1] == "delivered")
    house.die()
    house.start()
    house.turn(3700)
    until(lambda: len(receiver.posts) == 3)
    assert "resolved" == receiver.posts[2].said[0]
    assert receiver.posts[2].id != receiver.posts[1].id


async def test_what_a_process_before_had_put_off_is_due_at_a_start(tmp_path):
    """Whatever its back-off was: somebody who repaired the receiver and restarts doesn't wait for an hour."""
    phone = Recorded()
    phone.fails = UpstreamFailed("it answered 500")
    house = House(tmp_path, phone)
    await house.refuse()
    house.read()
    for tries in range(1, 10):
        house.settle(phone, tries)
        house.turn(3600)
    house.settle(phone, 10)
    phone.fails = None
    house.turn(1)
    assert [] == phone.told  # it waits
    house.die()
    house.start()
    house.turn()
    until(lambda: len(phone.told) >= 1)


async def test_episodes_rows_and_cursor_are_one_write(tmp_path, monkeypatch):
    """A notebook that fails leaves nothing behind and nothing sent; made anew, the same batch tells it once."""
    phone = Recorded()
    house = House(tmp_path, phone)
    await house.refuse()
    house.notebook.close()
    with pytest.raises(Exception, match=r"notebook|closed"):
        house.read()
    assert [] == phone.told
    house.start()
    house.read()
    house.settle(phone, 1)
    assert 1 == len(phone.told)
    assert house.reading.ends()[1] == house.alerts.cursor


async def test_a_slow_channel_holds_up_no_other_and_no_reading(tmp_path):
    """One hangs: the other is told, and apply and tick come back at once."""
    slow, quick = Recorded("slow"), Recorded("quick")
    slow.gate.clear()
    house = House(tmp_path, slow, quick)
    for number in range(20):
        await house.refuse(f"r{number}")
    house.read()
    until(lambda: house.turn() is not None and len(quick.told) == 20)
    assert (1, []) == (slow.tries, slow.told)
    slow.gate.set()
    until(lambda: house.turn() is not None and len(slow.told) == 20)


async def test_a_busy_gateway_is_looked_at_too(tmp_path):
    """Something is always unread there: what time alone tells is told all the same, unless it is far behind."""
    phone = Recorded()
    house = House(tmp_path, phone)
    house.health.tell("otlp-lab", behind=3, oldest_at=house.clock.at - 400.0, failures=9)
    await house.refuse()
    house.clock.at += BEHIND_S + 1.0
    for _ in range(PASSED_MOST + 2):
        house.turn()
    assert [] == list(house.alerts._episodes.open)
    house.read()
    house.die()
    house.start()
    await house.refuse("S")
    for _ in range(PASSED_MOST):
        house.turn()
    assert ["run_stopped/R"] == list(house.alerts._episodes.open)
    house.turn()
    assert ["run_stopped/R", "telemetry_backlog/otlp-lab"] == list(house.alerts._episodes.open)


async def test_history_at_a_first_start_pages_nobody(tmp_path):
    """Last week's stopped runs are known and not told; what is younger than an hour is; a second start tells all."""
    phone = Recorded()
    house = House(tmp_path, phone)
    house.die()
    await house.refuse("old", times=30)
    house.clock.at += 3 * 86_400
    await house.refuse("recent")
    house.clock.at += HISTORY_S - 1
    (tmp_path / "alerts.sqlite3").unlink()
    house.start()
    house.read()
    house.settle(phone, 1)
    house.turn()
    assert ["Run recent was stopped by its budget (money); calls are refused."] == [said for _, said, _ in phone.told]
    house.die()
    await house.refuse("late")
    house.clock.at += 3 * 86_400  # it was down for days: what it missed is told all the same
    house.start()
    house.read()
    house.turn()
    until(lambda: house.turn() is not None and any("late" in said for _, said, _ in phone.told))


async def test_nothing_ends_for_want_of_news_while_the_journal_is_not_read(tmp_path):
    """A tick before the reading has caught up looks at no clock."""
    phone = Recorded()
    house = House(tmp_path, phone)
    await house.refuse()
    house.read()
    house.settle(phone, 1)
    house.clock.at += 7200
    await house.refuse()
    house.turn()
    house.read()
    house.turn()
    house.settle(phone, 1)
    assert 1 == len(phone.told)


async def test_ten_thousand_refusals_are_one_message(tmp_path):
    """In batches, over restarts."""
    phone = Recorded()
    house = House(tmp_path, phone)
    for part in range(4):
        await house.refuse(times=2500)
        house.read()
        house.turn(1)
        if part % 2:
            house.die()
            house.start()
    house.settle(phone, 1)
    assert 1 == len(set(phone.told))


async def test_a_full_outbox_is_bounded_and_counts_what_it_left_out(tmp_path):
    """A channel that is down through a storm: so many rows in the file, each dropped one counted in another's row."""
    phone = Recorded()
    phone.fails = UpstreamFailed("it answered 500")
    house = House(tmp_path, phone)
    for number in range(MOST_ROWS):
        await house.refuse(f"r{number}")
    house.read()
    for number in range(300):
        await house.store.end_run(f"r{number}", "active", None, None, 0.0)
        house.alerts._episodes.end(f"run_stopped/r{number}", house.clock.at, "resumed")
        await house.refuse(f"s{number}")
    house.read()
    rows = [msgspec.msgpack.decode(raw, type=Row) for _, raw in house.notebook.all("row/")]
    dropped = house.alerts._counts["phone"].dropped
    assert (MOST_ROWS, 600) == (len(rows), dropped)
    assert dropped == sum(row.left_out for row in rows)
    assert dropped == sum(state == "dropped" for _, state, _, _ in house.deliveries())


def test_a_channel_is_told_how_many_were_left_out():
    """With the row that took their place."""
    phone, done = Recorded(), SimpleQueue[Result]()
    courier = Courier(phone, done)
    courier.take(Row(trial("msg_1", 1.0), "phone", 0.0, 0.0, left_out=3))
    assert ("phone", "msg_1", None) == done.get(timeout=20)
    assert [3] == [many for _, _, many in phone.told]
    courier.close()


async def test_what_nobody_takes_for_a_day_is_given_up_and_can_be_seen(tmp_path):
    """State `failed`, with the last error; counted as lost."""
    phone = Recorded()
    phone.fails = RuntimeError("a secret in a library's text")
    house = House(tmp_path, phone)
    await house.refuse()
    house.read()
    house.settle(phone, 1)
    house.turn(GIVE_UP_S)
    until(lambda: house.turn() is not None and any("failed" == state for _, state, _, _ in house.deliveries()))
    assert ("phone", "failed", 2, "RuntimeError in the channel") == house.deliveries()[0]
    house.turn()
    assert 1 <= house.health.of("alerts-phone").rejected


async def test_neither_secret_nor_address_of_a_channel_is_written_down(tmp_path, receiver, capfd, caplog):
    """A webhook's path and an apprise URL are credentials: not in the notebook, an error, a log, or on stderr."""
    receiver.answers = [500]
    secret = Channel("hook", f"http://127.0.0.1:{receiver.port}/canary-path", SECRET, local=True)
    service = Channel("team", f"json://canary-user:canary-word@127.0.0.1:{receiver.port}/canary-x")
    house = House(tmp_path, *senders(AlertRules((secret, service)), SystemClock()))
    await house.refuse()
    house.read()
    until(lambda: house.turn() is not None and sum(tries for _, _, tries, _ in house.deliveries()) == 2)
    house.notebook.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    shown = "".join([*capfd.readouterr(), caplog.text, repr(secret), repr(service), repr(house.deliveries())])
    assert b"run_stopped" in written
    for canary in ("canary", SECRET, SECRET.removeprefix("whsec_")):
        assert canary.encode() not in written
        assert canary not in shown


async def test_a_channel_that_nobody_answers_is_told_on_the_others(tmp_path):
    """After five minutes it is an alert of its own: the phone hears that the pager is dead."""
    pager, phone = Recorded("pager"), Recorded("phone")
    pager.fails = UpstreamFailed("it answered 500")
    house = House(tmp_path, pager, phone)
    await house.refuse()
    house.read()
    for _ in range(10):
        house.turn(31)
        until(lambda: house.turn() is not None and not house.alerts._busy)
    until(lambda: house.turn() is not None and len(phone.told) == 2)
    assert "Telemetry alerts-pager is 5 min behind: 1 entry waits (it answered 500)." == phone.told[1][1]
    state = house.health.of("alerts-pager")
    assert (2, "it answered 500", True) == (state.behind, state.last_error, state.failures > 3)


async def test_a_mute_is_kept_over_a_restart(tmp_path):
    """Written by the control plane into the journal."""
    phone = Recorded()
    house = House(tmp_path, phone)
    await house.refuse()
    house.read()
    house.settle(phone, 1)
    (alert_id,) = house.alerts._episodes.by_id
    await house.store.note("mute", "", {"alert_id": alert_id, "until": house.clock.at + 7200}, 0.0)
    house.read()
    house.die()
    house.start()
    house.turn(3700)
    assert "resolved" == house.alerts._episodes.by_id[alert_id].state(house.clock.at)
    assert 1 == len(phone.told)
    house.turn(3600)
    house.settle(phone, 2)
    assert 2 == len(phone.told)


async def test_channels_that_are_gone_are_not_waited_for_and_new_ones_get_what_comes(tmp_path):
    """Another configuration over the same notebook."""
    gone, fresh = Recorded("gone"), Recorded("fresh")
    gone.fails = UpstreamFailed("x")
    house = House(tmp_path, gone)
    await house.refuse()
    house.read()
    house.settle(gone, 1)
    house.die()
    house.senders = (fresh,)
    house.start()
    await house.refuse("S")
    house.read()
    house.settle(fresh, 1)
    assert ["Run S"] == [said[:5] for _, said, _ in fresh.told]
    assert 0.0 <= house.turn() <= 1.0


class Real(SystemClock):
    """The machine's clock, which nobody advances."""

    at = property(lambda self: self.now(), lambda self, _: None)


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.projections.test_alerts import House, Real, hook
from tests.receiver import Receiver
async def main():
    receiver = Receiver()
    receiver.port = int(sys.argv[2])
    house = House(Path(sys.argv[1]), hook(receiver), clock=Real())
    for number in range(5):
        await house.refuse(f"r{number}")
    house.read()
    while True:
        house.turn()
asyncio.run(main())
"""


def test_a_kill_loses_no_message_and_changes_no_id(tmp_path, receiver):
    """SIGKILL with the second message on the wire: all five come, each with one id, whoever sent it."""
    seen = threading.Event()

    def slow() -> None:
        if len(receiver.posts) == 1:
            seen.set()
            threading.Event().wait(0.5)

    receiver.before = slow
    args = [sys.executable, "-c", KILLED, str(tmp_path), str(receiver.port)]
    child = subprocess.Popen(args, cwd=Path(__file__).parents[2])
    try:
        assert seen.wait(20)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    house = House(tmp_path, hook(receiver), clock=Real())
    until(lambda: house.turn() is not None and len({post.id for post in receiver.taken}) == 5)
    until(lambda: house.turn() is not None and not list(house.notebook.all("row/")))
    by_id: dict[str, set[bytes]] = {}
    for post in receiver.posts:
        assert verified(post.headers, post.raw)
        by_id.setdefault(post.id, set()).add(post.raw)
    assert [1] * 5 == [len(bodies) for bodies in by_id.values()]
