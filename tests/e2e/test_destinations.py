"""Destinations that misbehave, come, go and come back; a disk without room; a journal that has forgotten.

Invariant: real servers, processes and file systems; each destination ends up with one span for each call that the
journal still knew, whatever another one does.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.core.errors import StoreFailed
from gateway.demo.provider import ScriptedProvider
from gateway.stores.notebook import SqliteNotebook
from tests.core.telemetry.metrics.metering import total
from tests.e2e.faulty import filled, small_disk
from tests.e2e.spending import call, chat, scripted
from tests.otlp import OtlpServer, always
from tests.play import Gateway, free_port


def to(**urls: str) -> str:
    """A destination for each."""
    told = "".join(f'[projections.otlp.destinations.{name}]\nendpoint = "{url}"\n' for name, url in urls.items())
    return f"[projections.alerts]\nenabled = false\n{told}"


@contextmanager
def deaf() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def until(true: Callable[[], object], what: str, seconds: float = 20) -> float:
    """Waits for a condition; for how long it had to."""
    begun = time.monotonic()
    while not await asyncio.to_thread(true):
        assert time.monotonic() - begun < seconds, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def spend(gateway: Gateway, count: int, run: str = "r") -> None:
    for _ in range(count):
        assert 200 == (await call(gateway, run, chat(words=5))).status


def chats(server: OtlpServer) -> int:
    return sum(span.name.startswith("chat ") for span in list(server.spans.values()))


def counted(gateway: Gateway) -> int:
    """Calls by /metrics."""
    page = gateway.get("/metrics")
    return round(total(page.body.decode(), "meterbox_requests_total")) if page.status == 200 else 0


def cursor(gateway: Gateway, name: str) -> int:
    """How far a projection has come; 0 before it is known."""
    try:
        book = SqliteNotebook(gateway.ledger.parent / "projections" / f"{name}.sqlite3", read_only=True)
    except StoreFailed:
        return 0
    try:
        return book.cursor
    finally:
        book.close()


async def test_one_that_never_answers_delays_no_other(tmp_path: Path, provider: ScriptedProvider) -> None:
    """It hangs until its timeout; the other has each call within two seconds, /metrics goes on, and the end comes."""
    with OtlpServer() as lab, deaf() as url:
        with Gateway(tmp_path, scripted(provider, to(lab=lab.url, deaf=url) + "timeout_s = 4\n")) as gateway:
            await spend(gateway, 1)
            await until(lambda: chats(lab) == 1, "the first")
            for number in range(2, 6):
                await spend(gateway, 1)
                assert await until(lambda number=number: chats(lab) == number, "a span") < 2.0  # type: ignore[misc]
            await until(lambda: counted(gateway) == 5, "the counters", 5)
            await until(lambda: gateway.said("projection_failed"), "its timeout")
            assert ["otlp-deaf"] == [line["projection"] for line in gateway.said("projection_failed")]
            begun = time.monotonic()
        assert time.monotonic() - begun < 8


async def test_each_goes_on_where_it_was(tmp_path: Path, provider: ScriptedProvider) -> None:
    """One that is behind is taken out by a reload, put in again, and lives through a restart: nothing is missing, and
    one that is new begins at the oldest call."""
    port = free_port()
    lab = to(lab=f"http://127.0.0.1:{port}")
    gateway = Gateway(tmp_path, scripted(provider, lab))
    with gateway, OtlpServer() as other:
        with OtlpServer(port) as server:
            await spend(gateway, 5)
            await until(lambda: chats(server) == 5, "the first five")
            reached = cursor(gateway, "otlp-lab")
        await spend(gateway, 5)
        await until(lambda: gateway.said("projection_failed"), "a failure")
        gateway.write(scripted(provider, to(other=other.url)))
        await asyncio.to_thread(gateway.hup)
        await until(lambda: chats(other) == 10, "all of them, at the new one")
        await spend(gateway, 5)
        gateway.write(scripted(provider, to(other=other.url, lab=f"http://127.0.0.1:{port}")))
        await asyncio.to_thread(gateway.hup)
        await until(lambda: len(gateway.said("projection_failed")) == 2, "a failure")
        assert reached == cursor(gateway, "otlp-lab")
        gateway.stop()
        gateway.start()
        await spend(gateway, 5)
        with OtlpServer(port) as server:
            await until(lambda: (15, 20) == (chats(server), chats(other)), "what came since", 40)
            assert {1} == set(server.times.values()) == set(other.times.values())


async def test_a_disk_without_room_is_waited_out(tmp_path: Path, provider: ScriptedProvider) -> None:
    """The notebooks' disk is full, over a restart too: calls go on, nothing begins anew, the counters are whole."""
    gateway = Gateway(tmp_path, scripted(provider))
    with small_disk(gateway.ledger.parent / "projections") as disk, OtlpServer() as lab:
        gateway.write(scripted(provider, to(lab=lab.url)))
        with gateway:
            await spend(gateway, 3)
            await until(lambda: chats(lab) == 3 and counted(gateway) == 3, "the first three")
            fillers = [filled(disk).rename(disk / "first")]
            await spend(gateway, 300, "many")
            await until(lambda: len(gateway.said("projection_failed")) >= 2, "two failures", 30)
            gateway.stop()
            fillers.append(filled(disk))
            gateway.start()
            await until(lambda: len(gateway.said("projection_failed")) >= 4, "two more failures", 30)
            for filler in fillers:
                filler.unlink()
            await until(lambda: chats(lab) == 303 and counted(gateway) == 303, "the rest", 60)
            await spend(gateway, 1)
            await until(lambda: chats(lab) == 304, "one more")
            await until(lambda: counted(gateway) == 304, "and its count")
        assert [] == gateway.said("notebook_moved") and {"metrics", "otlp-lab"} == {
            line["projection"] for line in gateway.said("projection_failed")
        }


async def test_what_the_journal_forgot_is_said(tmp_path: Path, provider: ScriptedProvider) -> None:
    """A destination was away for longer than the journal remembers: it goes on at the oldest entry, and says so."""
    lab = OtlpServer(rule=always(503))
    with lab:
        gateway = Gateway(tmp_path, scripted(provider, to(lab=lab.url)))
        with gateway:
            await spend(gateway, 2)
            lab.rule = lambda _: None
            await until(lambda: chats(lab) == 2, "the first two")
            lab.rule = always(503)
            await spend(gateway, 10)
            await until(lambda: gateway.said("projection_failed"), "a failure")
        connection = sqlite3.connect(gateway.ledger)
        newest = connection.execute("SELECT max(seq) FROM journal").fetchone()[0]
        connection.execute("DELETE FROM journal WHERE seq <= ?", (newest - 4,))
        connection.commit()
        connection.close()
        lab.rule = lambda _: None
        with gateway:
            await until(lambda: chats(lab) == 6, "the last four")
            (said,) = await asyncio.to_thread(gateway.says, "journal_forgotten")
            assert ("otlp-lab", 6) == (said["projection"], said["entries"])
            await spend(gateway, 1)
            await until(lambda: chats(lab) == 7, "one more")


async def test_a_pause_that_is_asked_for_is_kept(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Retry-After over HTTP, through the whole process: nothing in between."""
    with (
        OtlpServer(rule=always(429, {"retry-after": "4"})) as lab,
        Gateway(tmp_path, scripted(provider, to(lab=lab.url))) as gateway,
    ):
        await spend(gateway, 1)
        await until(lambda: lab.requests, "the first try")
        lab.rule = lambda _: None
        assert await until(lambda: chats(lab) == 1, "the second") > 3.5
        assert 2 == len(lab.requests)
