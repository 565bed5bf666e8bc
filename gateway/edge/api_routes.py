"""The table of `/api`: every path that the control plane answers, and the page that describes it (openapi.json).

Invariant: a path that is not in this table does not exist; a route that does not say `open` needs the operator's
credentials. What never enters: how a route is answered (admin.py finds the verb by its name).
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.edge import api_alert_models as a
from gateway.edge import api_models as m


class Route(Struct, frozen=True):
    """One method on one path."""

    method: str
    path: str  # `{id}` stands for one segment
    verb: str  # the name of what answers it
    says: str
    gives: type[BaseModel] | None = None  # None: not JSON
    takes: type[BaseModel] | None = None
    query: tuple[str, ...] = ()
    open: bool = False  # answered without credentials: health, which tells nothing


PAGED = ("limit", "cursor")

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/runs",
        "runs",
        "Runs, the latest first",
        m.RunPage,
        query=("state", "agent", "user", "parent", "sort", "since", "key", *PAGED),
    ),
    Route("POST", "/api/runs", "make_run", "Makes a run before its first call", m.RunItem, m.NewRun, ("key",)),
    Route("GET", "/api/runs/{id}", "run", "One run", m.RunItem, query=("key",)),
    Route("GET", "/api/runs/{id}/calls", "calls", "Its calls, in order", m.CallPage, query=("key", *PAGED)),
    Route("GET", "/api/runs/{id}/tools", "tools", "Its tool spans, in order", m.ToolPage, query=("key", *PAGED)),
    Route("GET", "/api/runs/{id}/held", "held", "Calls under way, descendants' too", m.HeldPage, query=("key", *PAGED)),
    Route("GET", "/api/runs/{id}/events", "events", "Its journal as server-sent events", query=("key",)),
    Route("POST", "/api/runs/{id}/end", "end", "Ends it", m.RunItem, m.Ending, ("key",)),
    Route("POST", "/api/runs/{id}/kill", "kill", "Stops it and its descendants", m.RunItem, m.Why, ("key",)),
    Route("POST", "/api/runs/{id}/resume", "resume", "Lets it go on", m.RunItem, m.Nothing, ("key",)),
    Route("POST", "/api/runs/{id}/limits", "limits", "Lowers or raises its limits", m.RunItem, m.NewLimits, ("key",)),
    Route("POST", "/api/runs/{id}/transition", "transition", "Notes a state", m.Noted, m.Transition, ("key",)),
    Route("POST", "/api/runs/{id}/feedback", "feedback", "Notes a judgement", m.Noted, m.Feedback, ("key",)),
    Route("POST", "/api/kill", "kill_switch", "Stops all, an agent or a user", m.Switched, m.KillSwitch),
    Route("POST", "/api/resume", "resume_switch", "Admits new runs again", m.Switched, m.Target),
    Route("GET", "/api/budgets", "budgets", "Accounts of every budget", m.BudgetPage, query=("run", "key", *PAGED)),
    Route("GET", "/api/alerts", "alerts", "Alerts, the latest first", a.AlertPage, query=PAGED),
    Route("POST", "/api/alerts/test", "try_alerts", "Sends a test to every channel", a.Trials, m.Nothing),
    Route("POST", "/api/alerts/{id}/mute", "mute", "Nothing is told of it until then", a.AlertNoted, a.Mute),
    Route("POST", "/api/alerts/{id}/ack", "ack", "Somebody has it: no repeats", a.AlertNoted, m.Nothing),
    Route("GET", "/api/openapi.json", "openapi", "This description"),
    Route("GET", "/metrics", "metrics", "Everything that is counted, as OpenMetrics text"),
    Route("GET", "/livez", "livez", "200 while the process answers", m.Health, open=True),
    Route("GET", "/readyz", "readyz", "200 once calls are served", m.Health, open=True),
)

QUERY: dict[str, dict[str, Any]] = {
    "key": {"type": "string", "description": "Name of the virtual key, where two keys have the same run id"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "cursor": {"type": "string", "description": "`next_cursor` of the page before"},
    "state": {"type": "string", "enum": ["active", "waiting", "paused", "ended", "killed"]},
    "agent": {"type": "string"},
    "user": {"type": "string"},
    "parent": {"type": "string", "description": "Only children of this run"},
    "run": {"type": "string", "description": "Only accounts on which a call of this run is charged"},
    "since": {"type": "string", "format": "date-time", "description": "Only runs that started then or later"},
    "sort": {
        "type": "string",
        "enum": ["-last_at", "last_at", "-started_at", "started_at", "-spent_usd", "spent_usd"],
        "default": "-last_at",
        "description": "With - in front: falling",
    },
}


def match(method: str, segments: tuple[str, ...]) -> tuple[Route | None, dict[str, str], frozenset[str]]:
    """The route, its path parameters, and the methods that the path knows (empty: no such path)."""
    known: set[str] = set()
    found: tuple[Route, dict[str, str]] | None = None
    for route in ROUTES:
        pattern = route.path.split("/")[1:]
        if len(pattern) != len(segments):
            continue
        if all(want in (have, "{id}") for want, have in zip(pattern, segments, strict=True)):
            known.add(route.method)
            if route.method == method:
                names = {want[1:-1]: have for want, have in zip(pattern, segments, strict=True) if want[0] == "{"}
                found = route, names
    if found is None:
        return None, {}, frozenset(known)
    return found[0], found[1], frozenset(known)


def describe(version: str) -> dict[str, Any]:
    """The OpenAPI page, from the same table and the same models that answer."""
    models = {model for route in ROUTES for model in (route.gives, route.takes) if model is not None} | {m.Failure}
    taken = {route.takes for route in ROUTES}
    _, schemas = models_json_schema(
        [
            (model, "validation" if model in taken else "serialization")
            for model in sorted(models, key=lambda model: model.__name__)
        ],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Meterbox control plane", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.verb,
        "summary": route.says,
        "security": [] if route.open else [{"admin": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", route.path)
        ]
        + [{"name": name, "in": "query", "schema": QUERY[name]} for name in route.query],
        "responses": {
            "200": {"description": "Done", "content": _content(route)},
            "default": {"description": "Refused", "content": _json(m.Failure)},
        },
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": False, "content": _json(route.takes)}
    return operation


def _content(route: Route) -> dict[str, Any]:
    if route.gives is not None:
        return _json(route.gives)
    kinds = {"events": "text/event-stream", "metrics": "application/openmetrics-text"}
    return {kinds.get(route.verb, "application/json"): {"schema": {}}}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
