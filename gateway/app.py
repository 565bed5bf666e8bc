"""The composition root: Settings -> objects -> listeners. The only file that names every class.

Invariant: the ledger is open before a port is, and closes after the last walk; what keeps it from starting is one
exception with one clear sentence. What never enters: a decision about a call.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from aiohttp import web

from gateway.config import Settings
from gateway.core.identify import Index
from gateway.core.kin import Kin
from gateway.core.live import Live
from gateway.core.parts import Parts
from gateway.core.ports import Dialect, Reading
from gateway.core.price import Override
from gateway.core.quote import Policy
from gateway.core.route import Routes
from gateway.core.types import Exchange
from gateway.dialects.anthropic import Anthropic
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from gateway.dialects.openai_embeddings import OpenAIEmbeddings
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.edge.admin import Control, Surface
from gateway.edge.api_door import LOOPBACK
from gateway.edge.clock import SystemClock
from gateway.edge.keys import Keys, KeySpec, load_pepper
from gateway.edge.listener import make_runner
from gateway.edge.log import Log
from gateway.edge.pool import PooledUpstream
from gateway.edge.pricelist import PriceList
from gateway.edge.server import DataPlane, Front
from gateway.edge.tasks import Tasks
from gateway.edge.tokenizer import HelperTokenizer
from gateway.edge.watch import LOOK_S, StoreWatch
from gateway.pipeline import Pipeline
from gateway.rules.budget import Budgets
from gateway.stores.sqlite import SqliteStore

DRAIN_S = 30.0  # a stop waits so long for the calls in flight; what is left is presumed
RESTORED_CALLS = 5000  # conversations known again after a restart: the newest calls of the journal
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


async def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Runs the gateway until SIGTERM or SIGINT. Raises ConfigError, StoreFailed or OSError where it can't start."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with AsyncExitStack() as stack:
        where = await build(settings, stack)
        tune()
        if ready is not None:
            ready(where)
        await stop.wait()


async def build(settings: Settings, stack: AsyncExitStack) -> str:
    """Puts the gateway together and opens its listeners; the stack takes it apart. Returns its address."""
    clock = SystemClock()
    log = Log(sys.stderr, clock)
    log.on_loop(asyncio.get_running_loop())
    log.adopt("aiohttp.server", "aiohttp.client", "aiohttp.web", "asyncio")
    tasks = Tasks(log)
    budgets = settings.budget_rules()
    store = await _open_store(settings, clock, stack)
    tasks.every(LOOK_S, StoreWatch(store, log).look, "store-watch")
    reading = store.reading()
    upstream = PooledUpstream(settings.secrets())
    stack.push_async_callback(upstream.close)
    tokenizer = HelperTokenizer()
    stack.push_async_callback(tokenizer.close)
    rule = Budgets(budgets, refuse_unknown=settings.prices.unknown == "refuse")
    policy = Policy(settings.runs.min_output, settings.prices.default_max_output)
    parts = Parts(
        store=store,
        upstream=upstream,
        prices=PriceList(_overrides(settings)),
        tokenizer=tokenizer,
        rules=(rule,),
        clock=clock,
        index=_restored(reading),
        kin=Kin(),
        live=Live(),
        policy=policy,
        log=log,
        wait_s=settings.runs.wait_s,
    )
    control = Control(store, reading, parts.live, _surface(settings, tuple(budgets)), clock, tasks)
    stack.callback(control.close)
    front = _front(settings, parts, tasks, control)
    return await _listen(settings, front, control, log, stack)


async def _open_store(settings: Settings, clock: SystemClock, stack: AsyncExitStack) -> SqliteStore:
    path = settings.ledger_path
    store = SqliteStore(
        path, clock.now, clock.new_id, idle_s=settings.runs.idle_s, durability=settings.stores.sqlite.durability
    )
    await store.open()
    stack.push_async_callback(store.close)
    return store


def _overrides(settings: Settings) -> list[Override]:
    named = settings.prices.overrides
    return [msgspec.convert(override.model_dump(), Override) for override in named]


def _restored(reading: Reading) -> Index:
    """The conversations of the newest calls, so that runs without an id go on over a restart."""
    index = Index()
    for exchange in newest_calls(reading, RESTORED_CALLS):
        index.restore(exchange)
    return index


def newest_calls(reading: Reading, most: int) -> list[Exchange]:
    """The newest calls of the journal, oldest first."""
    entries = reading.newest(most)
    return [msgspec.msgpack.decode(entry.data, type=Exchange) for entry in entries if entry.kind == "call"]


def _surface(settings: Settings, budgets: tuple[Any, ...]) -> Surface:
    own = settings.admin_listener()
    token = settings.server.admin_token
    open_wide = own is not None and token is not None
    return Surface(
        budgets=budgets,
        token=token,
        hosts=None if open_wide else LOOPBACK,
        tenants=tuple(key.name for key in settings.keys) if settings.keys_required else (),
    )


def _front(settings: Settings, parts: Parts, tasks: Tasks, control: Control) -> Front:
    spoken = dialects(SystemClock().seed())
    specs = [
        KeySpec(
            name=key.name,
            secret=key.secret,
            hash=key.hash,
            agent=key.agent,
            user=key.user,
            expires_at=key.expires.timestamp() if key.expires is not None else None,
            in_flight=key.in_flight,
        )
        for key in settings.keys
    ]
    pepper = load_pepper(settings.pepper_path) if specs else b""
    return Front(
        walker=Pipeline(parts),
        routes=Routes(settings.providers(), spoken, settings.server.unmetered),
        dialects=spoken,
        keys=Keys(specs, pepper),
        keys_required=settings.keys_required,
        tasks=tasks,
        clock=parts.clock,
        log=parts.log,
        control=control.handle if settings.admin_listener() is None else None,
        body_bytes=settings.server.max_body_mb << 20,
    )


async def _listen(settings: Settings, front: Front, control: Control, log: Log, stack: AsyncExitStack) -> str:
    server = settings.server
    runner = make_runner(DataPlane(front).handle, log)
    where = await _open(runner, server.host, server.port, stack)
    own = settings.admin_listener()
    if own is not None:
        plane = await _open(make_runner(control.handle, log), own[0], own[1], stack)
        log("listening", {"plane": "control", "url": plane})
    log("started", {"url": where, "providers": ", ".join(front.routes.sections), "ledger": str(settings.ledger_path)})
    stack.callback(log, "stopped", {"url": where})
    stack.push_async_callback(front.tasks.drain, DRAIN_S)
    stack.push_async_callback(_shut, runner)  # runs first: nobody new comes in while the calls in flight end
    return where


async def _shut(runner: web.ServerRunner) -> None:
    for site in list(runner.sites):
        await site.stop()


async def _open(runner: web.ServerRunner, host: str, port: int, stack: AsyncExitStack) -> str:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port, backlog=1024)
    await site.start()
    name = runner.addresses[0]
    return f"http://{f'[{name[0]}]' if ':' in name[0] else name[0]}:{name[1]}"


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
