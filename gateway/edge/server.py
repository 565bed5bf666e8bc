"""The data plane's front: takes a request apart, lets it in or not, and starts its walk.

Invariant: rule 1 of the pipeline, a walk is never cancelled: it runs on a task of its own, and when its client leaves
only the handler ends here. Credentials and route are judged before a body is read; nothing answers a traceback. What
never enters: what a call costs, which run it belongs to, what its body says.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from gateway.core import headers as heads
from gateway.core.answer import answer
from gateway.core.errors import Undecodable
from gateway.core.identify import labels_of
from gateway.core.ports import Clock, Dialect, Outlet
from gateway.core.route import ANTHROPIC, Routes, Target, take_apart, take_key
from gateway.core.types import Inbound, Key, Labels, Provider, Refusal
from gateway.edge.keys import Keys, Places, presented
from gateway.edge.listener import error_page
from gateway.edge.outlet import HttpOutlet
from gateway.edge.tasks import Tasks

Control = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MOST_IN_FLIGHT = 4096
BODY_S = 20.0  # security.md, limits: a body that doesn't move for so long gets 408 ...
_BODY_BYTES_PER_S = 64 << 10  # ... and it must come at this pace after the first 20 s (as Apache's MinRate)
_CONTROL_ROOTS = frozenset({"api", "livez", "readyz", "metrics"})
_GEMINI_KEY = "x-goog-api-key"


class Walker(Protocol):
    """The pipeline, as far as this file knows it."""

    async def walk(self, inbound: Inbound, provider: Provider, dialect: Dialect | None, outlet: Outlet) -> None:
        """Serves one call; never raises, is never cancelled."""
        ...


class Front(Struct):
    """What the data plane is made of. A reload puts another one in its place, for calls admitted afterwards."""

    walker: Walker
    routes: Routes
    dialects: Sequence[Dialect]
    keys: Keys
    keys_required: bool
    tasks: Tasks
    clock: Clock
    log: Callable[[str, dict[str, Any]], None]
    control: Control | None = None  # answers the control plane's paths, where it shares this port
    body_bytes: int = 32 << 20
    in_flight: int = MOST_IN_FLIGHT
    body_s: float = BODY_S
    place_wait_s: float = 30.0


class _Accepted(Struct, frozen=True):
    """A request that may come in: everything but its body."""

    headers: tuple[tuple[str, str], ...]
    target: Target
    query: str
    provider: Provider
    dialect: Dialect | None
    labels: Labels
    key: Key | None
    tenant: str
    walker: Walker  # of the configuration that let it in


class DataPlane:
    """Handles requests. `unexpected` counts defects of ours that a client was shielded from."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.in_flight = 0
        self.unexpected = 0
        self._places = Places(front.place_wait_s)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, from its head to the end of its answer."""
        front = self.front
        if front.control is not None and request.raw_path[1:].partition("?")[0].split("/", 1)[0] in _CONTROL_ROOTS:
            return await self._controlled(front.control, request)
        outlet = HttpOutlet(request)
        try:
            await self._serve(request, outlet)
        except asyncio.CancelledError:
            outlet.leave()
            raise
        except ConnectionError:
            outlet.leave()
        except Exception as defect:  # noqa: BLE001  counted in `unexpected`
            await self._defect(defect, request, outlet)
        if outlet.response is None:
            return error_page(500, "no answer")
        if not outlet.ended:
            outlet.abort()  # else aiohttp would end it politely
        return outlet.response

    async def _controlled(self, control: Control, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await control(request)
        except web.HTTPException:
            raise
        except Exception as defect:  # noqa: BLE001  counted in `unexpected`
            self.unexpected += 1
            self.front.log("unexpected", {"error": defect, "plane": "control"})
            return error_page(500, "unexpected")

    async def _serve(self, request: web.BaseRequest, outlet: HttpOutlet) -> None:
        accepted = self._accept(request)
        if isinstance(accepted, Refusal):
            return await self._refuse(request, accepted, outlet)
        if self.in_flight >= self.front.in_flight:
            return await self._refuse(request, _OVERLOADED, outlet)
        self.in_flight += 1
        walked: asyncio.Future[None] | None = None
        placed = False
        try:
            placed = accepted.key is None or await self._places.take(accepted.key)
            got = await self._read(request) if placed else _TOO_MANY
            if isinstance(got, Refusal):
                return await self._refuse(request, got, outlet, accepted.dialect)
            walked = self._start(request, accepted, got, outlet)
        finally:
            if walked is None:
                self._leave(accepted.key if placed else None)
        await walked

    def _start(
        self, request: web.BaseRequest, accepted: _Accepted, body: bytes, outlet: Outlet
    ) -> asyncio.Future[None]:
        """Starts the walk, and gives what its end is told to. Rule 1 (style.md): the handler that waits for that may be
        cancelled, the walk goes on to settle. (A future costs half of `shield`.)"""
        target = accepted.target
        inbound = Inbound(
            method=request.method,
            section=target.section,
            path=target.path,
            match=target.match,
            query=accepted.query,
            headers=accepted.headers,
            body=body,
            labels=accepted.labels,
            tenant=accepted.tenant,
            key=accepted.key,
            at=self.front.clock.now(),
        )
        walked = asyncio.get_running_loop().create_future()
        self.front.tasks.start(self._walk(inbound, accepted, outlet, walked), "walk")
        return walked

    async def _walk(self, inbound: Inbound, accepted: _Accepted, outlet: Outlet, walked: asyncio.Future[None]) -> None:
        try:
            await accepted.walker.walk(inbound, accepted.provider, accepted.dialect, outlet)
        except asyncio.CancelledError:  # by a drain whose time is up
            walked.cancel()
            raise
        except Exception as defect:
            if not walked.done():
                walked.set_exception(defect)
            raise
        finally:
            self._leave(accepted.key)
        if not walked.done():
            walked.set_result(None)

    def _leave(self, key: Key | None) -> None:
        self.in_flight -= 1
        if key is not None:
            self._places.free(key)

    # ------------------------------------------------------------------ before the body

    def _accept(self, request: web.BaseRequest) -> _Accepted | Refusal:
        """Credentials, route, labels: all that can be judged by the head alone."""
        front = self.front
        try:
            headers = heads.take(request.headers.items())
            if "websocket" in request.headers.get("upgrade", "").lower():
                return _NO_WEBSOCKET
            target = take_apart(request.raw_path, front.routes.sections)
            key, ride = self._key(headers, target)
            if isinstance(key, Refusal):
                return key
            labels = labels_of(headers, target.run)
            chosen = front.routes.choose(target, request.method, "anthropic-version" in request.headers)
            if isinstance(chosen, Refusal):
                return chosen
            provider, dialect = chosen
            refusal = _unreadable(request, dialect, front.body_bytes)
            if refusal is not None:
                return refusal
            if key is not None and ride:
                headers = tuple(head for head in headers if head[0] != ride)
            query, headers = _gemini(target.query, headers, provider)
        except Undecodable as error:
            return Refusal(error.status, error.code, str(error))
        tenant = key.name if key is not None else _digest(request)
        return _Accepted(headers, target, query, provider, dialect, labels, key, tenant, front.walker)

    def _key(self, headers: Sequence[tuple[str, str]], target: Target) -> tuple[Key | Refusal | None, str]:
        """The virtual key that is shown, and the header it rides in.

        Where none is needed, the usual headers may hold the client's own credential.
        """
        front = self.front
        if not front.keys_required and not len(front.keys):
            return None, ""
        text, ride = presented(headers, target.key)
        key = front.keys.find(text, front.clock.now()) if text is not None else None
        if key is None and (front.keys_required or (text is not None and ride not in heads.CREDENTIALS)):
            return _INVALID_KEY, ride
        return key, ride

    # ------------------------------------------------------------------ the body

    async def _read(self, request: web.BaseRequest) -> bytes | Refusal:
        """The body whole, or why not."""
        content, most = request.content, self.front.body_bytes
        if content.is_eof():
            body = content.read_nowait()
            return body if len(body) <= most else _too_large(most)
        if request.headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer itself has not begun
        parts: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                left = self.front.body_s + size / _BODY_BYTES_PER_S - (loop.time() - began)
                async with asyncio.timeout(min(self.front.body_s, left)):
                    part = await content.readany()
                if not part:
                    return b"".join(parts)
                parts.append(part)
                size += len(part)
                if size > most:
                    return _too_large(most)
        except TimeoutError:
            return _TOO_SLOW
        except (web.RequestPayloadError, HttpProcessingError):
            return _BAD_BODY

    # ------------------------------------------------------------------ refusals

    async def _refuse(
        self, request: web.BaseRequest, refusal: Refusal, outlet: HttpOutlet, dialect: Dialect | None = None
    ) -> None:
        """Refused before the walk: in the dialect of the path, told in the log, nothing in the journal."""
        self.front.log("refused", {"code": refusal.code, "status": refusal.status, "method": request.method})
        status, own, body = answer(refusal, dialect or self._dialect(request), _client(request))
        if not request.content.is_eof():
            own.append(("connection", "close"))  # what may still come belongs to the refused body
        await outlet.whole(status, own, body)

    async def _defect(self, defect: Exception, request: web.BaseRequest, outlet: HttpOutlet) -> None:
        self.unexpected += 1
        self.front.log("unexpected", {"error": defect, "method": request.method})
        if outlet.response is None:
            await outlet.whole(*answer(_OURS, self._dialect(request), ""))

    def _dialect(self, request: web.BaseRequest) -> Dialect:
        """Whose error shape the caller most likely reads."""
        path = request.raw_path.partition("?")[0].rstrip("/")
        anthropic = path.endswith("/messages") or "/messages/" in path or "anthropic-version" in request.headers
        dialects = self.front.dialects
        return next((dialect for dialect in dialects if (dialect.name == ANTHROPIC) == anthropic), dialects[0])


# ---------------------------------------------------------------------- the head, read


def _unreadable(request: web.BaseRequest, dialect: Dialect | None, most: int) -> Refusal | None:
    """Bodies that are refused unread: compressed ones (a bomb of 204 kB makes 200 MB), forms, and too large ones."""
    named = request.headers
    if any(value.strip().lower() not in ("", "identity") for value in named.getall("content-encoding", ())):
        return _ENCODED
    if dialect is not None and named.get("content-type", "").lstrip().lower().startswith("multipart/"):
        return _FORM
    # the parser has refused a length that isn't plain digits
    return _too_large(most) if int(named.get("content-length", 0)) > most else None


def _gemini(
    query: str, headers: tuple[tuple[str, str], ...], provider: Provider
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """`?key=` becomes a header on its way to a provider that speaks gemini: queries get logged everywhere."""
    if "key=" not in query or "gemini" not in provider.dialects:
        return query, headers
    rest, key = take_key(query)
    return (rest, headers) if key is None else (rest, (*headers, (_GEMINI_KEY, key)))


def _digest(request: web.BaseRequest) -> str:
    """Whom a call belongs to where no virtual keys are used: by the client's own credential; 1 us."""
    for name in heads.CREDENTIALS:
        if credential := request.headers.get(name):
            return hashlib.blake2b(credential.encode(), digest_size=16).hexdigest()
    return ""


def _client(request: web.BaseRequest) -> str:
    try:
        return labels_of(heads.take(request.headers.items()), None).client
    except Undecodable:
        return ""


# ---------------------------------------------------------------------- refusals: fact, don't, do instead

_NO_WEBSOCKET = Refusal(
    426,
    "websocket_unsupported",
    "This gateway doesn't meter WebSockets. Don't try the upgrade again; POST the same request instead.",
)
_INVALID_KEY = Refusal(
    401,
    "invalid_key",
    "The virtual key is missing, unknown or expired. Don't retry with it; ask the operator of this gateway for a key, "
    "and send it as x-meterbox-key, or where the provider's own key usually goes.",
)
_OVERLOADED = Refusal(
    503, "overloaded", "Too many calls are in flight. Retry in a second.", retryable=True, retry_after_s=1
)
_TOO_MANY = Refusal(
    429,
    "rate_limited",
    "Too many calls of this key are in flight, and none ended while this one waited. Don't add more; let some end.",
    unit="at_once",
    retryable=True,
    retry_after_s=1,
)
_ENCODED = Refusal(
    415,
    "unsupported_encoding",
    "Compressed request bodies are not accepted. Don't send Content-Encoding; send the same body as it is.",
)
_FORM = Refusal(
    415,
    "unsupported_encoding",
    "This path takes JSON, not a multipart form. Send the request as application/json.",
)
_TOO_SLOW = Refusal(
    408,
    "request_timeout",
    "The request's body stopped coming. Send it again, faster or smaller.",
    retryable=True,
)
_BAD_BODY = Refusal(400, "invalid_request", "The request's body is not framed as its headers say. Send it again.")
_OURS = Refusal(500, "internal_error", "Meterbox failed here; its log says where. Report it to the operator.")


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        "body_too_large",
        f"The body is larger than the {most >> 20} MB that this gateway takes. Don't resend it; make it smaller, or "
        "ask the operator to raise [server] max_body_mb.",
    )
