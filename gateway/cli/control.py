"""The control plane as the command line meets it: plain HTTP to `/api`, as anybody would.

Invariant: the admin token goes to the configured listener and nowhere else (no proxy, no redirect); every wait ends.
What never enters: the ledger's file, the gateway's own code.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from gateway.cli.options import VerbFailed
from gateway.cli.words import harmless

if TYPE_CHECKING:
    from gateway.config import Settings

_WAIT_S = 15.0
_MOST_BYTES = 64 * 1024 * 1024
_PAGE = 1_000


class Control:
    """A running gateway, asked and told over HTTP."""

    def __init__(self, settings: Settings) -> None:
        server = settings.server
        host, port = settings.admin_listener() or (server.host, server.port)
        self.host, self.port = reachable(host), port
        self._token = server.admin_token

    @property
    def origin(self) -> str:
        """For messages."""
        return f"http://{bracketed(self.host)}:{self.port}"

    def get(self, path: str, **query: Any) -> Any:
        """Raises VerbFailed with the reason that the gateway gave."""
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return self._ask("GET", f"{path}?{asked}" if asked else path, None)

    def post(self, path: str, body: dict[str, Any], **query: Any) -> Any:
        """Raises VerbFailed with the reason that the gateway gave."""
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return self._ask("POST", f"{path}?{asked}" if asked else path, body)

    def items(self, path: str, most: int, **query: Any) -> list[dict[str, Any]]:
        """A list over as many pages as it takes, at most `most` items."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(found) < most:
            page = self.get(path, **query, limit=min(_PAGE, most - len(found)), cursor=cursor)
            found.extend(page["items"])
            cursor = page.get("next_cursor")
            if not cursor or not page["items"]:
                break
        return found

    def answers(self) -> bool:
        """Is there a gateway, and does it serve?"""
        try:
            self._ask("GET", "/readyz", None)
        except VerbFailed:
            return False
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            status, raw = self._exchange(method, path, body)
        except ConnectionRefusedError as error:
            raise VerbFailed(
                f"no gateway answers on {self.origin}: start one with `meterbox serve`, or name its configuration "
                "with --config"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise VerbFailed(f"{self.origin} can't be asked: {error or type(error).__name__}") from error
        try:
            said = json.loads(raw)
        except ValueError as error:
            raise VerbFailed(
                f"what answers on {self.origin} is no meterbox gateway (status {status}): check host and port"
            ) from error
        if status >= 400:
            raise VerbFailed(f"{self.origin}: {_reason(status, said)}")
        return said

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        headers = {"accept": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token.reveal()}"
        payload = None
        if body is not None:
            headers["content-type"] = "application/json"
            payload = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_WAIT_S)
        try:
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            raw = answer.read(_MOST_BYTES + 1)
        finally:
            connection.close()
        if len(raw) > _MOST_BYTES:
            raise http.client.HTTPException("the answer is larger than 64 MB")
        return answer.status, raw


def _reason(status: int, said: Any) -> str:
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict) and error.get("message"):
        return harmless(error["message"])
    return f"status {status}"


def segment(name: str) -> str:
    """A run id as one segment of a path."""
    return quote(name, safe="")


def reachable(host: str) -> str:
    """An address to connect to: a listener on all addresses is reached on loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound


def bracketed(host: str) -> str:
    """A host as a URL spells it."""
    return f"[{host}]" if ":" in host else host
