"""The composition root: Settings -> objects -> listeners. The only file that names every class.

Invariant: the ledger is open before a port is, and closes after the last walk; what keeps it from starting is one
exception with one clear sentence. What never enters: a decision about a call.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct, structs

from gateway.config import Settings
from gateway.core.identify import Index
from gateway.core.kin import Kin
from gateway.core.live import Live
from gateway.core.parts import Parts
from gateway.core.ports import Dialect, Reading
from gateway.core.quote import Policy
from gateway.core.route import Routes
from gateway.core.types import Entry, Exchange
from gateway.dialects.anthropic import Anthropic
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.dialects.openai_embeddings import OpenAIEmbeddings
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.edge.admin import Control, Surface
from gateway.edge.api_door import LOOPBACK
from gateway.edge.capture import LOOK_S as CAPTURE_S
from gateway.edge.capture import Capture
from gateway.edge.clock import SystemClock
from gateway.edge.follow import LOOK_S as FOLLOW_S
from gateway.edge.follow import Follower
from gateway.edge.keys import Keys, load_pepper
from gateway.edge.leash import CONTROL, DATA, Leash, Said, Text
from gateway.edge.listener import make_runner, wind_up
from gateway.edge.log import Log
from gateway.edge.pool import PooledUpstream
from gateway.edge.pricelist import PriceList
from gateway.edge.server import DataPlane, Front
from gateway.edge.sockets import BACKLOG, url_of
from gateway.edge.tasks import DRAIN_S, Tasks
from gateway.edge.teller import Teller
from gateway.edge.tokenizer import HelperTokenizer
from gateway.edge.watch import LOOK_S, AuditWatch, StoreWatch
from gateway.pipeline import Pipeline
from gateway.reload import Reload
from gateway.rules.budget import Budgets
from gateway.stores.folder import METRICS_FILE, folder_of
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite.inspect import Auditor
from gateway.stores.sqlite.keep import Keeper

RESTORED_CALLS = 5000  # conversations known again after a restart: the newest calls of the journal
OWN_CALLS = 20_000  # of several processes, each tells so many of its latest calls from the others'
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 30


def dialects(seed: int = 0) -> list[Dialect]:
    """The wire formats, in the order in which they are asked."""
    return [
        OpenAIChat(seed=seed),
        OpenAIResponses(seed=seed),
        Anthropic(seed=seed),
        OpenAIEmbeddings(seed=seed),
        OpenAICompletions(seed=seed),
    ]


class Tether(Struct, frozen=True):
    """What ties one of several processes to its supervisor: the leash, the sockets that it was handed, and how to read
    a configuration that comes over the leash."""

    leash: Leash
    listeners: Mapping[str, Sequence[socket.socket]]
    read: Callable[[Text], Settings]


async def serve(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    reread: Callable[[], Settings] | None = None,
    tether: Tether | None = None,
) -> None:
    """Runs the gateway until SIGTERM or SIGINT; reloads at SIGHUP. Raises ConfigError, StoreFailed or OSError where it
    can't start."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    again = asyncio.Event()
    if tether is None:
        loop.add_signal_handler(signal.SIGHUP, again.set)
    async with AsyncExitStack() as stack:
        teller = None
        if tether is None:  # of several processes, the supervisor has it
            teller = Teller(SystemClock(), Log(sys.stderr, SystemClock()))
            stack.push_async_callback(asyncio.to_thread, teller.close)  # runs last: it tells of the last calls too
        gateway = await build(settings, stack, tether)
        tune()
        reload = Reload(settings, gateway, gateway.parts.log)
        if tether is not None:
            await _hold(tether, gateway, reload, stop)
            stack.callback(tether.leash.release)
        elif reread is not None:
            gateway.front.tasks.every(0, partial(_reread, again, reload, reread, teller), "reload")
        if ready is not None:
            ready(gateway.where)
        if teller is not None:
            teller.tell(settings.telling())
        await stop.wait()


async def _reread(again: asyncio.Event, reload: Reload, reread: Callable[[], Settings], teller: Teller | None) -> None:
    """Waits for a SIGHUP; those that come during a reload are one more."""
    await again.wait()
    again.clear()
    await reload.take(reread)
    if teller is not None:
        teller.tell(reload.settings.telling())


async def _hold(tether: Tether, gateway: Gateway, reload: Reload, stop: asyncio.Event) -> None:
    """A worker serves: says so, takes over what its supervisor hands it, and stops when that is gone."""
    leash = tether.leash

    async def take(config: Text) -> None:
        why = await reload.take(lambda: tether.read(config))
        leash.say(Said("refused" if why else "taken", why, config.number))

    def gone() -> None:
        if not stop.is_set():
            gateway.parts.log("supervisor_gone", {"url": gateway.where})
        stop.set()

    await leash.hold(lambda config: gateway.front.tasks.start(take(config), "reload"), gone)
    leash.say(Said("ready"))


class Gateway(Struct):
    """The gateway, put together. A reload replaces what the settings decide; ledger, open calls and caches stay."""

    settings: Settings
    parts: Parts
    upstream: PooledUpstream
    store: SqliteStore
    control: Control
    plane: DataPlane
    ear: Capture
    where: str = ""

    @property
    def front(self) -> Front:
        """What serves the calls that come in now."""
        return self.plane.front

    async def close_upstream(self) -> None:
        """Ends the connections to providers."""
        await self.upstream.close()

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Makes the parts that these settings decide; see `reload.House`. Raises ConfigError."""
        before, front = self.settings, self.front
        prices = self.parts.prices
        if settings.prices.overrides != before.prices.overrides:
            prices = await asyncio.to_thread(PriceList, settings.price_overrides())
        settings.check_prices(prices, self.parts.clock.now())
        keys = front.keys if settings.keys == before.keys else await asyncio.to_thread(_keys, settings)
        upstream, routes = self.upstream, front.routes
        if list(settings.sections.items()) != list(before.sections.items()):
            upstream = upstream.renewed(settings.secrets())
            routes = Routes(settings.providers(), front.dialects, settings.server.unmetered)
        elif settings.server.unmetered != before.server.unmetered:
            routes = Routes(settings.providers(), front.dialects, settings.server.unmetered)
        parts = structs.replace(self.parts, upstream=upstream, prices=prices, **_ruled(settings, self.ear))
        surface = _surface(settings)

        def swap() -> None:
            self.control.adopt(surface)
            self.store.idle_s = settings.runs.idle_s
            self.settings, self.parts, self.upstream = settings, parts, upstream
            self.plane.front = structs.replace(
                front,
                walker=Pipeline(parts),
                routes=routes,
                keys=keys,
                body_bytes=settings.server.max_body_mb << 20,
            )
            parts.live.renew()

        return swap


async def build(settings: Settings, stack: AsyncExitStack, tether: Tether | None = None) -> Gateway:
    """Puts the gateway together and opens its listeners; the stack takes it apart."""
    clock = SystemClock()
    log = Log(sys.stderr, clock, tether.leash.worker if tether is not None else 0)
    log.on_loop(asyncio.get_running_loop())
    log.adopt("aiohttp.server", "aiohttp.client", "aiohttp.web", "asyncio")
    tasks = Tasks(log)
    store = await _open_store(settings, clock, stack)
    tasks.every(LOOK_S, StoreWatch(store, log).look, "store-watch")
    tasks.every(LOOK_S, AuditWatch(_kept(store, stack).take, log).look, "audit-watch")
    ear = _collected(Capture(store, clock, log), tasks, stack)
    several = settings.server.workers > 1
    live = Live(kept=OWN_CALLS if several else 0)
    reading = store.reading()
    index, seen = _restored(reading)
    follower = _followed(Follower(store.reading(), live, index, seen), tasks, stack) if several else None
    tokenizer = HelperTokenizer()
    stack.push_async_callback(tokenizer.close)
    upstream = PooledUpstream(settings.secrets())
    prices = PriceList(settings.price_overrides())
    settings.check_prices(prices, clock.now())
    parts = Parts(
        store=store,
        upstream=upstream,
        prices=prices,
        tokenizer=tokenizer,
        clock=clock,
        index=index,
        kin=Kin(),
        live=live,
        log=log,
        catch_up=follower.catch_up if follower is not None else None,
        latest=lambda: gateway.parts,
        **_ruled(settings, ear),
    )
    control = Control(store, reading, live, _surface(settings), clock, tasks)
    stack.callback(control.close)
    plane = DataPlane(_front(settings, parts, tasks, control))
    gateway = Gateway(settings, parts, upstream, store, control, plane, ear)
    stack.push_async_callback(gateway.close_upstream)
    gateway.where = await _listen(settings, gateway, stack, tether.listeners if tether is not None else {})
    return gateway


def _ruled(settings: Settings, ear: Capture) -> dict[str, Any]:
    """The parts of a walk that the settings decide; `ear` is there in any case, and is given nothing while it's off."""
    return {
        "capture": ear if settings.capture.content == "on" else None,
        "rules": (Budgets(settings.budget_rules(), refuse_unknown=settings.prices.unknown == "refuse"),),
        "policy": Policy(settings.runs.min_output, settings.prices.default_max_output),
        "wait_s": settings.runs.wait_s,
    }


def _collected(ear: Capture, tasks: Tasks, stack: AsyncExitStack) -> Capture:
    """Closes before the store does: what waits is written."""
    stack.push_async_callback(asyncio.to_thread, ear.close)
    tasks.every(CAPTURE_S, ear.look, "content")
    return ear


def _followed(follower: Follower, tasks: Tasks, stack: AsyncExitStack) -> Follower:
    stack.callback(follower.close)
    tasks.every(FOLLOW_S, follower.tick, "follow")
    return follower


async def _open_store(settings: Settings, clock: SystemClock, stack: AsyncExitStack) -> SqliteStore:
    path = settings.ledger_path
    store = SqliteStore(
        path, clock.now, clock.new_id, idle_s=settings.runs.idle_s, durability=settings.stores.sqlite.durability
    )
    await store.open()
    stack.push_async_callback(store.close)
    return store


def _kept(store: SqliteStore, stack: AsyncExitStack) -> Auditor:
    """What the ledger does beside its calls: it forgets what is old, and is audited once an hour."""
    auditor = Auditor(store.path)
    store.chores += [Keeper().chore, auditor.chore]
    stack.callback(auditor.stop)
    return auditor


def _restored(reading: Reading) -> tuple[Index, int]:
    """The conversations of the newest calls, so that runs without an id go on over a restart; the last one's number."""
    index = Index()
    entries = reading.newest(RESTORED_CALLS)
    for exchange in calls_of(entries):
        index.restore(exchange)
    return index, entries[-1].seq if entries else 0


def calls_of(entries: Sequence[Entry]) -> Iterator[Exchange]:
    """The calls of the journal among these entries."""
    return (msgspec.msgpack.decode(entry.data, type=Exchange) for entry in entries if entry.kind == "call")


def _surface(settings: Settings) -> Surface:
    own = settings.admin_listener()
    token = settings.server.admin_token
    open_wide = own is not None and token is not None
    told, folder = settings.telling(), folder_of(settings.ledger_path)
    return Surface(
        budgets=tuple(settings.budget_rules()),
        token=token,
        hosts=None if open_wide else LOOPBACK,
        tenants=tuple(key.name for key in settings.keys) if settings.keys_required else (),
        alerts=folder / "alerts.sqlite3",
        alert_rules=told.alerts,
        metrics=folder / METRICS_FILE if told.metrics is not None else None,
    )


def _front(settings: Settings, parts: Parts, tasks: Tasks, control: Control) -> Front:
    spoken = dialects(SystemClock().seed())
    return Front(
        walker=Pipeline(parts),
        routes=Routes(settings.providers(), spoken, settings.server.unmetered),
        dialects=spoken,
        keys=_keys(settings),
        keys_required=settings.keys_required,
        tasks=tasks,
        clock=parts.clock,
        log=parts.log,
        control=control.handle if settings.admin_listener() is None else None,
        body_bytes=settings.server.max_body_mb << 20,
    )


def _keys(settings: Settings) -> Keys:
    """The virtual keys. Each of several processes lets in its part of what a key may have in flight."""
    specs = settings.key_specs()
    if (workers := settings.server.workers) > 1:
        specs = [structs.replace(spec, in_flight=-(-spec.in_flight // workers)) for spec in specs]
    return Keys(specs, load_pepper(settings.pepper_path) if specs else b"")


async def _listen(
    settings: Settings, gateway: Gateway, stack: AsyncExitStack, handed: Mapping[str, Sequence[socket.socket]]
) -> str:
    server, front, log = settings.server, gateway.front, gateway.parts.log
    runner = make_runner(gateway.plane.handle, log)
    where = await _open(runner, (server.host, server.port), handed.get(DATA, ()), stack)
    own = settings.admin_listener()
    if own is not None:
        plane = await _open(make_runner(gateway.control.handle, log), own, handed.get(CONTROL, ()), stack)
        log("listening", {"plane": "control", "url": plane})
    log("started", {"url": where, "providers": ", ".join(settings.providers()), "ledger": str(settings.ledger_path)})
    stack.callback(log, "stopped", {"url": where})
    stack.push_async_callback(front.tasks.drain, DRAIN_S)
    stack.push_async_callback(_shut, runner)  # runs first: nobody new comes in while the calls in flight end
    return where


async def _shut(runner: web.ServerRunner) -> None:
    for site in list(runner.sites):
        await site.stop()
    wind_up(runner)


async def _open(
    runner: web.ServerRunner, at: tuple[str, int], handed: Sequence[socket.socket], stack: AsyncExitStack
) -> str:
    """Listens at a host and port, or on sockets that listen already; the first one's URL."""
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    for one in handed:
        await web.SockSite(runner, one, backlog=BACKLOG).start()
    if not handed:
        await web.TCPSite(runner, *at, backlog=BACKLOG).start()
    return url_of(runner.addresses[0])


def tune() -> None:
    """Settings of the process that cost nothing and show in every call.

    What was made at start lives for ever and need not be walked by the collector; buffers of large bodies stay with the
    allocator instead of being mapped and unmapped for every call (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # no glibc: nothing to set
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
