"""The log: one JSON object a line on stderr, for starts, stops, errors and refusals. Calls are in the journal.

Invariant: a line is one line, whatever a client sent: control characters are escaped, each field is at most 1 KB,
client texts are values, never keys or formats; what looks like a credential is `***` (security.md, log injection).
What never enters: a message of an exception that may quote a request (of foreign libraries only the type and place are
written), bodies, headers.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import msgspec

from gateway.core.errors import MeterboxError
from gateway.core.ports import Clock
from gateway.core.refusal import rfc3339

if TYPE_CHECKING:
    import asyncio

MOST_FIELD = 1024
MOST_FIELDS = 32
ERRORS = frozenset(
    {
        "audit_failed",
        "defect",
        "unexpected",
        "task_failed",
        "tick_failed",
        "loop_error",
        "settle_failed",
        "store_failed",
        "worker_died",
        "projections_died",
        "projections_blocked",
        "projection_failed",
        "journal_forgotten",
        "reload_failed",
        "true_up_failed",
        "span_dropped",
        "spans_rejected",
        "content_lost",
        "channel_failed",
    }
)
WARNINGS = frozenset({"warning", "notebook_moved", "drain_cut", "projections_cut", "supervisor_gone"})
_SECRET = re.compile(
    r"(?i:bearer|basic)\s+[^\s,;\"']{6,}"
    r"|\b(?:sk|pk|rk|mbx|xai|gsk|pplx|csk)[-_][A-Za-z0-9._~-]{8,}"
    r"|\b[A-Za-z0-9]{1,16}_[A-Za-z0-9_-]{1,128}\.[A-Za-z0-9._~-]{16,}"  # any virtual key: prefix_id.secret
    r"|\bAKIA[A-Z0-9]{12,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bxox[a-z]-[A-Za-z0-9-]{8,}|\bAIza[A-Za-z0-9_-]{16,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]{8,}"
    r"|-----BEGIN [A-Z ]+-----"
    r"|(?i:[?&]key=|api[-_]?key[\"']?\s*[:=]\s*[\"']?)[^\s&\"']{4,}"
)


class Log:
    """Writes lines. Call it like a function: `log("refused", {"code": ...})`."""

    def __init__(self, out: IO[str], clock: Clock, worker: int = 0) -> None:
        self._out = out
        self._clock = clock
        self._worker = worker  # its number, where there are several

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """One line. Never raises: a full disk behind stderr must not break a call."""
        line: dict[str, Any] = {
            "at": rfc3339(self._clock.now()),
            "level": "error" if event in ERRORS else "warning" if event in WARNINGS else "info",
            "event": event,
        }
        if self._worker:
            line["worker"] = self._worker
        for name, value in tuple(fields.items())[:MOST_FIELDS]:
            line[str(name)[:64]] = plain(value)
        try:
            self._out.write(msgspec.json.encode(line).decode() + "\n")
            self._out.flush()
        except (OSError, ValueError):
            return

    def adopt(self, *names: str) -> None:
        """Takes over loggers of libraries: their warnings become lines of ours, without their texts."""
        for name in names:
            logger = logging.getLogger(name)
            logger.handlers[:] = [_Bridge(self)]
            logger.propagate = False

    def on_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """What nobody awaited, and what the event loop itself stumbled over."""
        loop.set_exception_handler(lambda _, context: self("loop_error", _of_loop(context)))


class _Bridge(logging.Handler):
    """A library's record: aiohttp's tracebacks quote request lines, so only type and place go on."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "place": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = record.exc_info[1]
        self._log("library_error" if record.levelno >= logging.ERROR else "library_warning", fields)


def plain(value: Any) -> Any:
    """A value as it may be written: numbers as they are, texts short and without credentials, failures by place."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, BaseException):
        return failure(value)
    text = value if isinstance(value, str) else str(value)
    # cut twice: first so that a huge text is not scanned, then because `***` may be longer than what it replaces
    text = _SECRET.sub("***", text[: MOST_FIELD * 4])
    text = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:MOST_FIELD]


def failure(error: BaseException) -> str:
    """Type and place of a failure; the text only where it is our own, since a foreign one may quote a request."""
    frames = list(traceback.walk_tb(error.__traceback__))[-1:]
    place = "".join(f" at {frame.f_code.co_filename.rsplit('/', 1)[-1]}:{line}" for frame, line in frames)
    said = f": {error}" if isinstance(error, MeterboxError) else ""
    return str(plain(f"{type(error).__name__}{place}{said}"))


def _of_loop(context: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"what": context.get("message", "")}
    if isinstance(error := context.get("exception"), BaseException):
        fields["error"] = error
    return fields
