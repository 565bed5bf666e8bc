"""The control plane: answers `/api` straight from the ledger, and lets an operator stop, resume and limit runs.

Invariant: a read blocks nothing but its own thread, and a change, once begun, is finished even if its caller leaves;
money shown is the ledger's at that moment, held money never shown as spent. What never enters: the data plane, and any
route that is not in the table (api_routes.py).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from msgspec import Struct, structs

from gateway.core.errors import ConfigError, StoreFailed
from gateway.core.identify import run_key
from gateway.core.ledger import names
from gateway.core.ports import Clock, Reading, Store
from gateway.core.refusal import rfc3339, usd
from gateway.core.secret import Secret
from gateway.core.telemetry.settings import AlertRules
from gateway.core.types import Run, RunFacts
from gateway.edge import api_alert_models as a
from gateway.edge import api_models as m
from gateway.edge import api_views as views
from gateway.edge import exposed
from gateway.edge.api_alerts import AlertBook, tried
from gateway.edge.api_budgets import Books
from gateway.edge.api_door import HEADERS, Asked, Door, Wrong, reply, run_filter
from gateway.edge.api_events import Feed
from gateway.edge.api_reads import Account, Reads
from gateway.edge.api_routes import ROUTES, describe
from gateway.edge.tasks import Tasks
from gateway.rules.budget import Budget

MOST_SWITCHED = 100_000  # live runs that one kill switch stops
AT_ONCE = 64  # of them at the same time: one commit of the store takes that many
LIVE = ("active", "waiting", "paused")


class Live(Protocol):
    """The open calls of this process (core/live.py)."""

    def stop_run(self, run_key: str, reason: str) -> int:
        """Ends the open calls of a run and of its descendants; how many."""
        ...

    def stop_all(self, kind: str, name: str, reason: str) -> int:
        """Ends the open calls of an agent, of a user, or all (kind `global`); how many."""
        ...


class Surface(Struct, frozen=True):
    """What the configuration says of the control plane."""

    budgets: tuple[Budget, ...] = ()
    token: Secret | None = None
    hosts: frozenset[str] | None = None  # names that a request's Host may have (api_door.LOOPBACK); None: any, by token
    tenants: tuple[str, ...] = ()  # names of the virtual keys where each has run ids of its own
    alerts: Path | None = None  # the notebook of the process that sends alerts
    alert_rules: AlertRules | None = None  # None: nobody is told
    metrics: Path | None = None  # what the process of the projections renders


class Control:
    """Answers every route of the table by the method of its verb's name."""

    def __init__(
        self, store: Store, reading: Reading, live: Live, surface: Surface, clock: Clock, tasks: Tasks
    ) -> None:
        self._store = store
        self._reads = Reads(reading)
        self._live = live
        self._clock = clock
        self._tasks = tasks
        self._feed = Feed(self._reads)
        self._trying = False
        self.adopt(surface)
        self._verbs: dict[str, Callable[[Asked], Awaitable[web.StreamResponse]]] = {
            route.verb: getattr(self, f"_{route.verb}") for route in ROUTES
        }

    def adopt(self, surface: Surface) -> None:
        """From now on the configuration says this. Raises ConfigError where nobody would be kept out."""
        if surface.hosts is None and surface.token is None:
            raise ConfigError("a control plane that answers under any name needs [server] admin_token")
        self._surface = surface
        self._door = Door(surface.token, surface.hosts)
        self._tops = views.ceilings(surface.budgets)
        self._books = Books(surface.budgets)
        self._alert_book = AlertBook(surface.alerts)

    @staticmethod
    def owns(path: str) -> bool:
        """Is this path the control plane's, and no provider's?"""
        return path == "/api" or path.startswith("/api/") or path in ("/livez", "/readyz", "/metrics")

    def close(self) -> None:
        """Ends the reading thread."""
        self._reads.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request. Raises only what is a defect of ours."""
        try:
            asked = await self._door.enter(request)
        except Wrong as wrong:
            return wrong.answer()
        if asked.route.method == "GET":
            return await self._answer(asked)
        # a handler is cancelled when its client leaves; half a kill would be worse than none
        return await asyncio.shield(self._tasks.start(self._answer(asked), f"api {asked.route.verb}"))

    async def _answer(self, asked: Asked) -> web.StreamResponse:
        try:
            return await self._verbs[asked.route.verb](asked)
        except Wrong as wrong:
            return wrong.answer()
        except StoreFailed as failure:
            return Wrong(
                503, "store_unavailable", f"The ledger can't be used: {failure}", {"Retry-After": "2"}
            ).answer()

    # ----------------------------------------------------------------------- what is

    async def _runs(self, asked: Asked) -> web.StreamResponse:
        wanted = run_filter(asked.query)
        if "parent" in asked.query:
            parent, _ = await self._reads.find(asked.query["parent"], asked.key, self._surface.tenants)
            wanted = structs.replace(wanted, parent=parent.key)
        runs, after = await self._reads.runs(wanted, asked.key, asked.limit, asked.cursor)
        found = await self._reads.standings([name for run, _ in runs for name in views.accounts_of(run.key)])
        items = [views.run_item(run, balance, views.limits_of(run.key, found, self._tops)) for run, balance in runs]
        return reply(m.RunPage.model_construct(items=items, next_cursor=after))

    async def _run(self, asked: Asked) -> web.StreamResponse:
        return await self._shown(await self._found(asked))

    async def _calls(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        exchanges, after = await self._reads.calls(run.key, asked.limit, asked.cursor)
        items = [views.call_item(exchange) for exchange in exchanges]
        return reply(m.CallPage.model_construct(items=items, next_cursor=after))

    async def _tools(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        begin = asked.offset
        found = await self._reads.tool_spans(run.key)
        end = begin + asked.limit
        items = [views.tool_item(span) for span in found[begin:end]]
        return reply(m.ToolPage.model_construct(items=items, next_cursor=str(end) if end < len(found) else None))

    async def _held(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        begin = asked.offset
        end = begin + asked.limit
        found = await self._reads.open_calls(run.key, end + 1)
        items = [views.held_item(call, run.tenant) for call in found[begin:end]]
        return reply(m.HeldPage.model_construct(items=items, next_cursor=str(end) if end < len(found) else None))

    async def _events(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        return await self._feed.follow(asked.request, run.key)

    async def _budgets(self, asked: Asked) -> web.StreamResponse:
        books, now = self._books, self._clock.now()
        if "run" not in asked.query:
            limit, cursor = asked.limit, asked.cursor
            items, after = await self._reads.ask(lambda reading: books.page(reading, now, limit, cursor))
            return reply(m.BudgetPage.model_construct(items=items, next_cursor=after))
        run, _ = await self._reads.find(asked.query["run"], asked.key, self._surface.tenants)
        begin = asked.offset
        end = begin + asked.limit
        items = await self._reads.ask(lambda reading: books.of_run(reading, run, now))
        after = str(end) if end < len(items) else None
        return reply(m.BudgetPage.model_construct(items=items[begin:end], next_cursor=after))

    async def _alerts(self, asked: Asked) -> web.StreamResponse:
        book, now, limit, cursor = self._alert_book, self._clock.now(), asked.limit, asked.cursor
        return reply(await self._reads.ask(lambda reading: book.page(reading, now, limit, cursor)))

    async def _openapi(self, _asked: Asked) -> web.StreamResponse:
        body = json.dumps(describe(importlib.metadata.version("meterbox")))
        return web.Response(text=body, content_type="application/json", headers=HEADERS)

    async def _metrics(self, _asked: Asked) -> web.StreamResponse:
        body, headers = await asyncio.to_thread(exposed.page, self._surface.metrics, self._clock.now())
        return web.Response(body=body, headers=headers)

    async def _livez(self, _asked: Asked) -> web.StreamResponse:
        return reply(m.Health(status="alive"))

    async def _readyz(self, _asked: Asked) -> web.StreamResponse:
        why = self._store.failed()
        if why is not None:
            raise Wrong(
                503, "store_unavailable", "The ledger can't be written; its log says why.", {"Retry-After": "2"}
            )
        return reply(m.Health(status="ready"))

    # ----------------------------------------------------------------------- what shall be

    async def _make_run(self, asked: Asked) -> web.StreamResponse:
        body: m.NewRun = asked.body
        tenant = self._tenant(asked.key)
        run_id = body.run_id or self._clock.new_id("run")
        key = run_key(tenant, run_id)
        if await self._store.run(key) is not None:
            raise Wrong(409, "run_exists", f"There is a run {run_id} already.")
        parent = run_key(tenant, body.parent) if body.parent is not None else None
        if parent is not None and await self._store.run(parent) is None:
            raise Wrong(404, "not_found", f"There is no run {body.parent}, so it can't be the parent.")
        facts = RunFacts(key, run_id, tenant, "api", parent, body.agent, body.user)
        await self._store.make_run(facts, self._clock.now())
        for unit, wanted in (body.limits.by_unit() if body.limits is not None else {}).items():
            # in force is the lower of configuration and request (http.md section 4)
            top = self._tops.get(unit)
            amount = wanted if top is None else min(wanted, top.limit)
            await self._store.set_limit(names.spell("run", key, unit), amount)
        return await self._show(key)

    async def _end(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        if run.state == "killed":
            raise Wrong(409, "run_killed", "This run was killed; /resume comes first.")
        body: m.Ending = asked.body
        await self._store.end_run(run.key, "ended", body.outcome, body.reason, self._clock.now())
        return await self._show(run.key)

    async def _kill(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        await self._stop(run.key, asked.body.reason)
        return await self._show(run.key)

    async def _stop(self, key: str, reason: str) -> set[str]:
        """Kills a run and its live descendants; which of them were live."""
        # the gate first: it stands in every later order of the run and of its descendants
        await self._store.close_account(f"run/{key}", reason)
        self._live.stop_run(key, reason)
        stopped = set()
        for run in await self._reads.line(key):
            if run.key == key or run.state in LIVE:
                await self._store.end_run(run.key, "killed", "killed", reason, self._clock.now())
            if run.state in LIVE:
                stopped.add(run.key)
        return stopped

    async def _resume(self, asked: Asked) -> web.StreamResponse:
        found, _ = await self._found(asked)
        for run in await self._reads.line(found.key):
            if run.key == found.key or _stopped_with(run, found):
                await self._store.end_run(run.key, "active", None, None, self._clock.now())
        await self._store.open_account(f"run/{found.key}")
        return await self._show(found.key)

    async def _limits(self, asked: Asked) -> web.StreamResponse:
        run, _ = await self._found(asked)
        wanted: dict[str, int] = asked.body.by_unit()
        if not wanted:
            raise Wrong(400, "invalid_request", f"Say what to change: {', '.join(views.UNITS)}.")
        for unit, amount in wanted.items():  # all are looked at before one is changed
            top = self._tops.get(unit)
            if top is not None and amount > top.most:
                raise Wrong(400, "limit_too_high", too_high(unit, top.most))
        for unit, amount in wanted.items():
            await self._store.set_limit(names.spell("run", run.key, unit), amount)
        return await self._show(run.key)

    async def _transition(self, asked: Asked) -> web.StreamResponse:
        return await self._note(asked, "transition")

    async def _feedback(self, asked: Asked) -> web.StreamResponse:
        return await self._note(asked, "feedback")

    async def _note(self, asked: Asked, kind: str) -> web.StreamResponse:
        run, _ = await self._found(asked)
        now = self._clock.now()
        await self._store.note(kind, run.key, asked.body.model_dump(mode="json", exclude_none=True), now)
        return reply(m.Noted(run_id=run.id, at=rfc3339(now)))

    async def _mute(self, asked: Asked) -> web.StreamResponse:
        return await self._note_alert(asked, "mute", {"until": asked.body.until})

    async def _ack(self, asked: Asked) -> web.StreamResponse:
        return await self._note_alert(asked, "ack", {})

    async def _note_alert(self, asked: Asked, kind: str, data: dict[str, Any]) -> web.StreamResponse:
        book = self._alert_book
        if not await self._reads.ask(lambda _: book.knows(asked.id)):
            raise Wrong(404, "not_found", f"There is no alert {asked.id[:128]!r}; GET /api/alerts lists all.")
        now = self._clock.now()
        await self._store.note(kind, "", {"alert_id": asked.id, **data}, now)
        return reply(a.AlertNoted(alert_id=asked.id, at=rfc3339(now)))

    async def _try_alerts(self, _asked: Asked) -> web.StreamResponse:
        if self._trying:
            raise Wrong(
                503, "overloaded", "A test is under way; its answer comes within seconds.", {"Retry-After": "5"}
            )
        self._trying = True
        try:
            return reply(await tried(self._surface.alert_rules, self._clock))
        finally:
            self._trying = False

    async def _kill_switch(self, asked: Asked) -> web.StreamResponse:
        body: m.KillSwitch = asked.body
        gate = body.gate()
        await self._store.close_account(gate, body.reason)
        kind, _, name = gate.partition("/")
        calls = self._live.stop_all(kind, name, body.reason)
        stopped: set[str] = set()
        for state in LIVE:
            keys = await self._all({"state": state, "sort": "started_at", **({kind: name} if name else {})})
            for begin in range(0, len(keys), AT_ONCE):
                done = await asyncio.gather(*(self._stop(key, body.reason) for key in keys[begin : begin + AT_ONCE]))
                stopped.update(*done)
        return reply(m.Switched(gate=gate, open=False, runs=len(stopped), calls=calls))

    async def _resume_switch(self, asked: Asked) -> web.StreamResponse:
        gate = asked.body.gate()
        await self._store.open_account(gate)
        return reply(m.Switched(gate=gate, open=True, runs=0, calls=0))

    # ----------------------------------------------------------------------- shared

    async def _all(self, query: Mapping[str, str]) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        while len(found) < MOST_SWITCHED:
            page, cursor = await self._reads.runs(run_filter(query), None, 1000, cursor)
            found += [run.key for run, _ in page]
            if cursor is None:
                break
        return found

    async def _found(self, asked: Asked) -> Account:
        return await self._reads.find(asked.id, asked.key, self._surface.tenants)

    async def _show(self, key: str) -> web.StreamResponse:
        return await self._shown(await self._reads.known(key))

    async def _shown(self, found: Account) -> web.StreamResponse:
        run, balance = found
        standings = await self._reads.standings(views.accounts_of(run.key))
        return reply(views.run_item(run, balance, views.limits_of(run.key, standings, self._tops)))

    def _tenant(self, key: str | None) -> str:
        names = self._surface.tenants
        if key is None and len(names) > 1:
            raise Wrong(400, "invalid_request", "Run ids belong to a virtual key here; say ?key= with its name.")
        if key is not None and key not in names:
            raise Wrong(404, "not_found", f"There is no virtual key {key[:64]!r}.")
        return key or (names[0] if names else "")


def too_high(unit: str, most: int) -> str:
    """Which limit the configuration allows at most."""
    if unit == "nusd":
        return f"The configuration (max_usd) allows at most ${usd(most)} for one run."
    return f"The configuration allows at most {most} {unit.replace('_', ' ')} for one run."


def _stopped_with(run: Run, root: Run) -> bool:
    """Was this descendant stopped by the kill of `root`, and not by one of its own before?"""
    return (
        run.state == root.state == "killed"
        and run.reason == root.reason
        and (run.ended_at or 0) >= (root.ended_at or 0)
    )
