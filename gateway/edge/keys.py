"""Virtual keys: who may call, and how many calls of one key are in flight.

Invariant: a secret is never kept, only HMAC-SHA256(pepper, secret) of it; unknown ids take the same path and time as
known ones; a wait for a free place is bounded in time and in number. What never enters: rights that a caller wrote,
a key in a log line or a message.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from gateway.core.errors import ConfigError
from gateway.core.headers import CREDENTIALS
from gateway.core.secret import Secret
from gateway.core.types import Key

HEADER = "x-meterbox-key"
_PEPPER_BYTES = 32
_MOST_TEXT = 512  # characters of a presented key that are looked at


class KeySpec(Struct, frozen=True):
    """A `[[keys]]` entry: exactly one of secret (`id.secret`, or any random text) and hash (`id.` + 64 hex digits)."""

    name: str
    secret: Secret | None = None
    hash: str | None = None
    agent: str | None = None
    user: str | None = None
    expires_at: float | None = None
    in_flight: int = 512


class _Known(Struct, frozen=True):
    digest: bytes
    key: Key
    expires_at: float | None


class Keys:
    """The configured keys, looked up by id; digests are compared in constant time (security.md, keys)."""

    def __init__(self, specs: Sequence[KeySpec], pepper: bytes) -> None:
        self._pepper = pepper
        self._nobody = secrets.token_bytes(32)
        self._known: dict[str, _Known] = {}
        for spec in specs:
            key_id, digest = self._read(spec)
            if key_id in self._known:
                raise ConfigError(f"keys: {spec.name} has the same id as another key; make a new one.")
            key = Key(spec.name, spec.agent, spec.user, spec.in_flight)
            self._known[key_id] = _Known(digest, key, spec.expires_at)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, text: str, now: float) -> Key | None:
        """The key that this text proves; None: unknown, wrong or expired, and nobody is told which."""
        key_id, secret = split(text[:_MOST_TEXT])
        known = self._known.get(key_id)
        same = hmac.compare_digest(self._digest(secret), known.digest if known is not None else self._nobody)
        if known is None or not same or len(text) > _MOST_TEXT:
            return None
        return known.key if known.expires_at is None or now < known.expires_at else None

    def _read(self, spec: KeySpec) -> tuple[str, bytes]:
        if spec.secret is not None:
            key_id, secret = split(spec.secret.reveal())
            return key_id, self._digest(secret)
        key_id, _, digest = (spec.hash or "").rpartition(".")
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            raw = b""
        if not key_id or len(raw) != 32:
            raise ConfigError(f"keys: {spec.name}: hash must be the key's id, a point and 64 hex digits.")
        return key_id, raw

    def _digest(self, secret: str) -> bytes:
        return hmac.digest(self._pepper, secret.encode("utf-8", "replace"), "sha256")


def split(text: str) -> tuple[str, str]:
    """`prefix_id.secret` -> id and secret. A text without a point is its own secret; its digest is the id."""
    key_id, point, secret = text.partition(".")
    if point and key_id and secret:
        return key_id, secret
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), text


def presented(headers: Sequence[tuple[str, str]], in_path: str | None) -> tuple[str | None, str]:
    """The virtual key that a request shows, and the header it rides in ("": in the path).

    A key in the path or in x-meterbox-key leaves the usual headers to the client's own provider credential.
    """
    if in_path is not None:
        return in_path, ""
    for name, value in headers:
        if name == HEADER:
            return value, HEADER
    for name, value in headers:
        if name in CREDENTIALS:
            scheme, _, token = value.partition(" ")
            return (token.strip() if token and scheme.lower() == "bearer" else value), name
    return None, ""


def load_pepper(path: Path) -> bytes:
    """The secret that digests of keys are made with; made at the first start, readable by its owner only."""
    try:
        if not path.exists():
            _make_pepper(path)
        pepper = path.read_bytes()
    except OSError as error:
        why = f"pepper_file {path}: {error.strerror}. It must be readable, and its folder writable at the first start."
        raise ConfigError(why) from error
    if len(pepper) < _PEPPER_BYTES:
        raise ConfigError(f"pepper_file {path}: holds less than {_PEPPER_BYTES} bytes. Restore it from a backup.")
    return pepper


def _make_pepper(path: Path) -> None:
    """Written aside and linked in: two processes that start at once end up with one pepper, and it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_PEPPER_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    finally:
        aside.unlink()


class Places:
    """How many calls of one key are under way. A call above the limit waits (design.md section 5, [[keys]])."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, key: Key) -> bool:
        """Takes a place, waiting in line if it must. False: none became free in time, or the line is full."""
        taken = self._taken.get(key.name, 0)
        if taken < key.in_flight:
            self._taken[key.name] = taken + 1
            return True
        line = self._waiting.setdefault(key.name, deque())
        if len(line) >= key.in_flight:
            return False
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as ended:
            if turn.done() and not turn.cancelled():
                self.free(key)  # the place came just as we gave up: it goes on to the next
            elif turn in line:
                line.remove(turn)
            if isinstance(ended, asyncio.CancelledError):
                raise
            return False
        return True

    def free(self, key: Key) -> None:
        """Gives a place back: to the next in line, if anybody waits."""
        line = self._waiting.get(key.name)
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        left = self._taken.get(key.name, 0) - 1
        if left > 0:
            self._taken[key.name] = left
        else:
            self._taken.pop(key.name, None)
            self._waiting.pop(key.name, None)
