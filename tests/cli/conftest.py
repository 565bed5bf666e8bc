"""A control plane of canned answers on a real socket, and a way to run a verb as a person would."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main

RUN: dict[str, Any] = {
    "run_id": "r-1", "key": None, "source": "path", "parent": None, "agent": "research", "user": None, "session": None,
    "state": "active", "outcome": None, "reason": None,
    "started_at": "2026-11-20T10:00:00Z", "last_at": "2026-11-20T10:01:05.5Z", "ended_at": None,
    "calls": 3, "tool_calls": 2, "errors": 1, "input_tokens": 12_345, "output_tokens": 678,
    "cache_read_tokens": 0, "cache_write_tokens": 0, "reasoning_tokens": 0,
    "spent_usd": "0.030000001", "own_spent_usd": "0.02", "held_usd": "0.5", "overrun_usd": "0",
    "limits": {"usd": "1", "calls": None}, "trace_id": None,
}  # fmt: skip


def call(step: int, model: str, cost: str | None, **more: Any) -> dict[str, Any]:
    """A row of /calls."""
    return {
        "call_id": f"c{step}", "step": step, "dialect": "openai-chat", "provider": "openai", "request_model": model,
        "response_model": model, "stream": True, "started_at": "2026-11-20T10:00:00Z", "duration_ms": 5.0,
        "ttft_ms": 1.0, "status": 200, "outcome": "ok", "reason": None, "finish_reason": "stop",
        "usage": {"input_tokens": 1000, "output_tokens": 100}, "cost_usd": cost, "cost_source": "price_list",
        "hold_usd": "0", "clamped": None, "tool_calls": [], "findings": [], "attempts": [], **more,
    }  # fmt: skip


class Box:
    """What the canned control plane answers, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"GET /readyz": {"status": "ready"}}
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.port = 0


def _canned(box: Box) -> type[BaseHTTPRequestHandler]:
    class Canned(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            box.asked.append((f"{self.command} {self.path}", body, {k.lower(): v for k, v in self.headers.items()}))
            said = box.answers.get(f"{self.command} {self.path}")
            if said is None:
                said = box.answers.get(f"{self.command} {self.path.partition('?')[0]}")
            status = 200 if said is not None else 404
            if said is None:
                said = {"error": {"code": "not_found", "message": "There is no such \x1b[31mrun."}}
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    return Canned


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A canned control plane, and a working folder whose meterbox.toml points at it."""
    made = Box()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _canned(made))
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    (tmp_path / "meterbox.toml").write_text(f"[server]\nport = {made.port}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


Ran = tuple[int, str, str]


@pytest.fixture
def meterbox(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs a verb in this process; its exit status, stdout and stderr."""

    def run(*args: str) -> Ran:
        capfd.readouterr()
        status = 0
        try:
            main(list(args))
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        out, err = capfd.readouterr()
        return status, out, err

    return run
