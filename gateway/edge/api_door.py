"""The door of `/api`: who may come in, what was asked, and how a refusal is spelled. Nothing behind it trusts a header.

Invariant: credentials come before everything else, unknown paths included; a body is bounded in bytes and in time,
and a field, query parameter or JSON key that nobody named is an error. What never enters: the store, a run, money.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel, ValidationError

from gateway.core.ports import RunFilter
from gateway.core.secret import Secret
from gateway.edge import api_models as m
from gateway.edge.api_routes import Route, match

MOST_BODY_BYTES = 64 << 10
BODY_S = 20.0  # as on the data plane: a slow body is no reason to keep a connection (security.md, limits)
MOST_LIMIT = 1000
MOST_OFFSET = 10_000_000
DEFAULT_LIMIT = 100
STATES: tuple[str, ...] = get_args(m.State)
SORTS = tuple(sign + name for name in ("last_at", "started_at", "spent") for sign in ("-", ""))
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Server: aiohttp would tell its own version and the interpreter's
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "meterbox"}


class Wrong(Exception):
    """A refusal of the control plane, on its way to the one place that spells it."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def answer(self) -> web.Response:
        """The refusal as JSON."""
        failure = m.Failure(error=m.ErrorBody(code=self.code, message=str(self)))
        return reply(failure, self.status, self.headers)


class Asked(Struct, frozen=True):
    """A request that came through the door."""

    route: Route
    request: web.BaseRequest
    id: str = ""
    query: Mapping[str, str] = {}
    body: Any = None  # the route's own model

    @property
    def key(self) -> str | None:
        """Which virtual key's run is meant."""
        return self.query.get("key")

    @property
    def limit(self) -> int:
        """How many items a page may hold. Raises Wrong."""
        return whole_number("limit", self.query.get("limit"), DEFAULT_LIMIT, (1, MOST_LIMIT))

    @property
    def cursor(self) -> str | None:
        """Where the page begins; the store's own word."""
        return self.query.get("cursor")

    @property
    def offset(self) -> int:
        """Where the page begins, in a list that has no cursor of the store's. Raises Wrong."""
        return whole_number("cursor", self.cursor, 0, (0, MOST_OFFSET))


def reply(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A model as an answer."""
    return web.Response(
        status=status,
        body=model.model_dump_json().encode(),
        headers={**HEADERS, **(headers or {})},
        content_type="application/json",
    )


class Door:
    """Lets a request in, or says why not."""

    def __init__(self, token: Secret | None, hosts: Iterable[str] | None) -> None:
        self._token = token
        self._hosts = None if hosts is None else frozenset(host.lower().strip("[]") for host in hosts)

    async def enter(self, request: web.BaseRequest) -> Asked:
        """Credentials first, then the path, then what was sent. Raises Wrong."""
        path, _, query = request.raw_path.partition("?")
        route, names, methods = match(request.method, _segments(path))
        if route is None or not route.open:
            self._admit(request)
        if route is None:
            if not methods:
                raise Wrong(404, "not_found", "There is no such path; GET /api/openapi.json lists all of them.")
            allow = ", ".join(sorted(methods))
            raise Wrong(405, "method_not_allowed", f"This path takes {allow}.", {"Allow": allow})
        asked = _query(query, route)
        body = await self._body(request, route) if route.takes is not None else None
        return Asked(route, request, names.get("id", ""), asked, body)

    def _admit(self, request: web.BaseRequest) -> None:
        # A web page in the same browser reaches loopback too, and a name that it controls may point there (DNS
        # rebinding): both show in these two headers, which no page can set (http.md section 1).
        host = request.headers.get("Host", "")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            raise Wrong(
                403, "foreign_host", "This control plane answers only under its own name; check the Host header."
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise Wrong(403, "foreign_origin", "A page of another origin may not use this control plane.")
        if self._token is not None and not self._bears(request.headers.getall("Authorization", [])):
            raise Wrong(
                401,
                "unauthorized",
                "The control plane takes the admin token as `Authorization: Bearer <token>`; no other key will do.",
                {"WWW-Authenticate": "Bearer"},
            )

    def _bears(self, values: list[str]) -> bool:
        scheme, _, sent = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        try:
            return scheme.lower() == "bearer" and Secret(sent.strip()) == self._token
        except UnicodeEncodeError:  # aiohttp keeps bytes that are no UTF-8 as surrogates
            return False

    async def _body(self, request: web.BaseRequest, route: Route) -> BaseModel:
        assert route.takes is not None
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Wrong(415, "unsupported_encoding", "Send the body as it is, without Content-Encoding.")
        try:
            raw = await asyncio.wait_for(_bounded(request), BODY_S)
        except TimeoutError:
            raise Wrong(408, "request_timeout", f"The body did not come within {BODY_S:.0f} s.") from None
        said = parse(raw)
        try:
            return route.takes.model_validate(said)
        except ValidationError as problem:
            raise Wrong(400, "invalid_request", _sentence(problem)) from problem


async def _bounded(request: web.BaseRequest) -> bytes:
    raw = bytearray()
    async for chunk in request.content.iter_any():
        raw += chunk
        if len(raw) > MOST_BODY_BYTES:
            raise Wrong(
                413, "body_too_large", f"A body here has at most {MOST_BODY_BYTES} bytes.", {"Connection": "close"}
            )
    return bytes(raw)


def parse(raw: bytes) -> Any:
    """A JSON object with exact numbers; nothing at all is an empty one. Raises Wrong, for a repeated key too."""
    if not raw.strip():
        return {}
    try:
        said = json.loads(raw, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        raise Wrong(400, "invalid_request", f"The body is no JSON that can be used: {problem}.") from problem
    if not isinstance(said, dict):
        raise Wrong(400, "invalid_request", "The body must be a JSON object.")
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def whole_number(name: str, said: str | None, default: int, bounds: tuple[int, int]) -> int:
    """A query parameter that is a number. Raises Wrong."""
    if said is None:
        return default
    least, most = bounds
    if not (said.isascii() and said.isdigit() and len(said) <= len(str(most)) and least <= int(said) <= most):
        raise Wrong(400, "invalid_request", f"{name} is a whole number from {least} to {most}.")
    return int(said)


def run_filter(query: Mapping[str, str]) -> RunFilter:
    """Which runs a list is about, in which order. Raises Wrong."""
    state, sort = query.get("state"), query.get("sort", RunFilter().sort).removesuffix("_usd")
    if state is not None and state not in STATES:
        raise Wrong(400, "invalid_request", f"state is one of {', '.join(STATES)}.")
    if sort not in SORTS:
        raise Wrong(400, "invalid_request", f"sort is one of {', '.join(SORTS)}.")
    return RunFilter(state, query.get("agent"), query.get("user"), since(query.get("since")), sort=sort)


def since(said: str | None) -> float | None:
    """An RFC 3339 instant as epoch seconds; without an offset it is UTC. Raises Wrong."""
    if said is None:
        return None
    try:
        at = datetime.fromisoformat(said.replace(" ", "+") if "T" in said else said)  # a bare + arrives as a space
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as problem:
        raise Wrong(400, "invalid_request", "since is an instant like 2026-11-20T12:00:00Z.") from problem


def _segments(path: str) -> tuple[str, ...]:
    # Split first, decode then: an encoded slash stays inside of its segment and matches nothing.
    return tuple(unquote_to_bytes(part).decode("utf-8", "replace") for part in path.split("/")[1:])


def _query(query: str, route: Route) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError as problem:
        raise Wrong(400, "invalid_request", "The query can't be read.") from problem
    asked = dict(pairs)
    for name in asked:
        if name not in route.query:
            takes = ", ".join(route.query) or "none"
            raise Wrong(
                400, "invalid_request", f"There is no query parameter {name[:100]!r} here; this path takes: {takes}."
            )
    if len(asked) != len(pairs):
        raise Wrong(400, "invalid_request", "A query parameter occurs twice.")
    return asked


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _sentence(problem: ValidationError) -> str:
    """The first thing that is wrong, with the field's name; never the value that was sent."""
    first = problem.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    return f"{where}: {first['msg']}" if where else str(first["msg"])
