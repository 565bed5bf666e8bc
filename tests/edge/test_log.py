"""edge/log.py: one line an event, whatever a client sent, and no secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import StoreFailed
from gateway.edge.log import ERRORS, WARNINGS, Log, plain
from tests.fakes import FakeClock


def written(event: str, **fields: Any) -> dict[str, Any]:
    out = io.StringIO()
    Log(out, FakeClock(0.0))(event, fields)
    lines = out.getvalue().splitlines()
    assert 1 == len(lines)
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_a_line_has_its_instant_level_event_and_fields() -> None:
    """Errors are told from news by their level."""
    assert {"at": "1970-01-01T00:00:00Z", "level": "info", "event": "start", "port": 1, "x": None} == written(
        "start", port=1, x=None
    )
    assert "error" == written("unexpected")["level"]
    assert "warning" == written("warning")["level"]


def test_whoever_reads_an_error_at_night_finds_it_in_a_page() -> None:
    """Each event above news stands in a table: what happened, what to do. What is lost is an error, not news."""
    root = Path(__file__).parents[2] / "docs"
    pages = (root / "runbooks/README.md").read_text(encoding="utf-8") + (root / "telemetry.md").read_text("utf-8")
    rows = "\n".join(line.split("|")[1] for line in pages.splitlines() if line.startswith("|"))
    assert [] == sorted(event for event in ERRORS | WARNINGS if f"`{event}`" not in rows)
    assert {"span_dropped", "spans_rejected", "content_lost", "true_up_failed", "journal_forgotten"} <= ERRORS


def test_a_worker_says_which_it_is() -> None:
    """Where several processes write to one log; a process that runs alone has no number."""
    out = io.StringIO()
    Log(out, FakeClock(0.0), worker=3)("start", {})
    assert 3 == json.loads(out.getvalue())["worker"]
    assert "worker" not in written("start")


@given(st.text(max_size=200))
def test_any_text_stays_on_its_line(text: str) -> None:
    """Log injection: control characters and line ends are escaped."""
    line = written("refused", text=text)
    assert line["text"].isprintable()


def test_a_field_is_capped_and_a_key_of_ours_can_not_be_overwritten_by_length() -> None:
    """1 KB a field, 32 fields a line."""
    line = written("x", long="y" * 100_000, **{f"f{n}": n for n in range(100)})
    assert (1024, True) == (len(line["long"]), len(line) <= 35)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-api03-abcdefghijklmnop",
        "sk-proj-abcdefghijklmnop",
        "mbx_k1.0123456789abcdef0123",
        "team_alice.0123456789abcdef0123",
        "Bearer abcdefghijklmnop",
        "Basic dXNlcjpwYXNz",
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrstuvwxyz",
        "xoxb-1234567890-abc",
        "AIzaSyA1234567890abcdefg",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig",
        "?key=abcdefgh",
        "api_key=abcdefgh",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_credential_is_not_written(secret: str) -> None:
    """Wherever it stands in a text."""
    said = written("x", text=f"before {secret} after")["text"]
    assert "***" in said and secret not in said and said.startswith("before ")


def test_a_failure_is_told_by_type_and_place_and_only_our_own_by_its_text() -> None:
    """Foreign texts may quote a request."""
    try:
        raise KeyError("CANARY")
    except KeyError as error:
        said = written("unexpected", error=error)["error"]
    assert said.startswith("KeyError at test_log.py:") and "CANARY" not in said
    assert "StoreFailed: disk full" == plain(StoreFailed("disk full"))


def test_a_broken_stderr_breaks_no_call() -> None:
    """A full disk, a closed pipe."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError("no space")

    Log(Full(), FakeClock())("start", {})
    closed = io.StringIO()
    closed.close()
    Log(closed, FakeClock())("start", {})


def test_a_librarys_record_goes_on_without_its_text() -> None:
    """aiohttp's tracebacks quote request lines."""
    out = io.StringIO()
    log = Log(out, FakeClock())
    logger = logging.getLogger("a.library")
    log.adopt("a.library")
    try:
        raise ValueError("CANARY")
    except ValueError:
        logger.exception("bad header %s", "CANARY")
    logger.info("CANARY")
    line = json.loads(out.getvalue())
    assert ("library_error", "a.library") == (line["event"], line["logger"])
    assert "ValueError at test_log.py" in line["error"] and "CANARY" not in out.getvalue()


async def test_what_the_loop_stumbles_over_becomes_a_line() -> None:
    """Exceptions that nobody awaited."""
    out = io.StringIO()
    loop = asyncio.get_running_loop()
    Log(out, FakeClock()).on_loop(loop)
    loop.call_exception_handler({"message": "oops", "exception": KeyError("CANARY")})
    line = json.loads(out.getvalue())
    assert ("loop_error", "oops", "KeyError") == (line["event"], line["what"], line["error"])
