"""A real trace backend shows what the ledger says: Arize Phoenix, in a virtual environment of its own.

Recorded agent runs are replayed through the gateway by HTTP; then the runs, calls, tools, tokens and dollars that
Phoenix shows, by its own reading of our spans and its own price table, are compared with `/api`. Off by default: its
installation takes minutes and nearly a gigabyte. METERBOX_TEST_BACKENDS=1 turns it on, as `.ci/run` does.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_collector import port, until
from tests.play import NUSD, ROOT, SHARED, Gateway, nusd

PHOENIX = "arize-phoenix==20.26.1"
FOLDER = ROOT / "build/phoenix"
INSTALL_S, START_S = 1_500, 240
RUNS = 5

pytestmark = [
    pytest.mark.shared,
    pytest.mark.timeout(INSTALL_S + 600),
    pytest.mark.skipif(
        os.environ.get("METERBOX_TEST_BACKENDS") != "1",
        reason="it installs a trace backend, which takes minutes: METERBOX_TEST_BACKENDS=1 turns it on",
    ),
]


def installed() -> Path:
    """Phoenix's own interpreter; installed where the stamp is not of this release."""
    python, stamp = FOLDER / "bin/python", FOLDER / "stamp"
    if not stamp.exists() or stamp.read_text() != PHOENIX:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True, timeout=120)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PHOENIX]
        subprocess.run(pip, check=True, timeout=INSTALL_S)
        stamp.write_text(PHOENIX)
    return python


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, while it serves on an empty database."""
    python = installed()
    folder = tmp_path_factory.mktemp("phoenix")
    number = port()
    environment = {
        **os.environ, "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(number),
        "PHOENIX_GRPC_PORT": str(port()), "PHOENIX_TELEMETRY_ENABLED": "false",
    }  # fmt: skip
    log = folder / "log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            [str(python), "-m", "phoenix.server.main", "serve"], env=environment, stdout=said, stderr=said
        )
    url = f"http://127.0.0.1:{number}"
    try:
        until(lambda: up(server, url, log), "Phoenix serves", START_S)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)


def up(server: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    """Does it answer?"""
    assert server.poll() is None, log.read_text()[-2000:]
    time.sleep(0.2)
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# --------------------------------------------------------------------------- the recorded runs


def recorded() -> list[dict[str, Any]]:
    """Runs whose tokens were really billed."""
    path = SHARED / "trajectories/tau2-bench__airline.jsonl.gz"
    if not path.exists():
        pytest.skip("../shared is missing: no recorded agent runs")
    with gzip.open(path, "rt") as lines:
        return [run for run in map(json.loads, lines) if run.get("call_usage")][:RUNS]


@contextmanager
def model(runs: list[dict[str, Any]]) -> Iterator[str]:
    """The provider of these runs: answers what was recorded, with the tokens that were billed then."""
    known = {run["run_id"]: run for run in runs}

    class Door(BaseHTTPRequestHandler):
        """One connection."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            run = known[asked["user"]]
            answer = json.dumps(completion(run, len(asked["messages"]))).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def completion(run: dict[str, Any], at: int) -> dict[str, Any]:
    """The recorded answer, and its usage; what the call before sent comes from the cache, as OpenAI counts it."""
    number = run["calls"].index(at)
    used = run["call_usage"][number]
    before = run["call_usage"][number - 1]["prompt_tokens"] if number else 0
    cached = min(before, used["prompt_tokens"]) // 128 * 128 if number % 2 else 0
    message = run["messages"][at]
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": f"chatcmpl-{run['run_id']}-{number}",
        "object": "chat.completion",
        "model": run["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": used["prompt_tokens"],
            "completion_tokens": used["completion_tokens"],
            "total_tokens": used["prompt_tokens"] + used["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def replay(gateway: Gateway, run: dict[str, Any]) -> None:
    """The run as its agent made it, then its end."""
    heads = {
        "x-meterbox-run-id": run["run_id"], "x-meterbox-agent": run["source"], "x-meterbox-session": run["run_id"],
        "authorization": "Bearer sk-test",
    }  # fmt: skip
    for at in run["calls"]:
        body = {"model": run["model"], "messages": run["messages"][:at], "tools": run["tools"], "user": run["run_id"]}
        answer = gateway.post("/v1/chat/completions", body, heads)
        assert 200 == answer.status, answer.body
    assert 200 == gateway.post(f"/api/runs/{run['run_id']}/end", {"outcome": "completed"}).status


# --------------------------------------------------------------------------- what Phoenix shows


def asked(url: str, query: str) -> Any:
    """One GraphQL question, as its pages ask."""
    request = urllib.request.Request(
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.load(answer)
    assert "errors" not in told, told["errors"]
    return told["data"]


def spans_in(url: str) -> list[dict[str, Any]]:
    """All spans of the project."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        with urllib.request.urlopen(f"{url}/v1/projects/meterbox/spans?limit=500{cursor}", timeout=60) as answer:
            page = json.load(answer)
        found += page["data"]
        if page.get("next_cursor") is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


PROJECT = """{projects {edges {node {name traceCount recordCount tokenCountPrompt tokenCountCompletion
    costSummary {prompt {cost} completion {cost} total {cost}}}}}}"""


def project(url: str) -> dict[str, Any]:
    """Its own sums; empty until the project is there."""
    nodes = [edge["node"] for edge in asked(url, PROJECT)["projects"]["edges"]]
    return next((node for node in nodes if node["name"] == "meterbox"), {})


def settled(read: Callable[[], Any], true: Callable[[Any], bool], seconds: float = 120) -> Any:
    """What is read, once it is as expected; else the last of it."""
    end = time.monotonic() + seconds
    while True:
        found = read()
        if true(found) or time.monotonic() > end:
            return found
        time.sleep(0.2)


def shown_content(spans: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """What was opted in, in Phoenix's own words: every message of every request, tools' arguments and results, and a
    session's first question. One message that it took as malformed would cost the whole list."""
    sizes: Counter[tuple[str, int]] = Counter()
    for span in spans:
        said = span["attributes"]
        if span["span_kind"] == "LLM":
            asked = [name for name in said if re.fullmatch(r"llm\.input_messages\.\d+\.message\.role", name)]
            sizes[said["meterbox.run.id"], len(asked)] += 1
            assert said["llm.output_messages.0.message.role"] == "assistant"
        elif span["span_kind"] == "TOOL":
            assert json.loads(said["gen_ai.tool.call.arguments"]) is not None and said["output.value"]
    assert Counter((run["run_id"], at) for run in runs for at in run["calls"]) == sizes
    first = {
        span["attributes"]["meterbox.run.id"]: span["attributes"]["input.value"] for span in spans if is_root(span)
    }
    for run in runs:
        asked = [one["content"] for one in run["messages"][: run["calls"][0]] if one["role"] == "user"]
        assert asked[-1] == first[run["run_id"]]


def is_root(span: dict[str, Any]) -> bool:
    """Is it a run's?"""
    return bool(span["span_kind"] == "AGENT")


def test_phoenix_shows_the_runs_as_the_ledger_has_them(phoenix: str, tmp_path: Path) -> None:
    """R-153, R-151: equal counts of runs, calls and tools, equal tokens, equal money, one trace a run, all messages."""
    runs = recorded()
    with model(runs) as origin:
        config = (
            f'[providers.openai]\nbase_url = "{origin}"\n'
            f'[projections.otlp.destinations.phoenix]\nendpoint = "{phoenix}"\npreset = "phoenix"\n'
            "[projections.metrics]\nenabled = false\n[projections.alerts]\nenabled = false\n"
            '[capture]\ncontent = "on"\n[projections.otlp]\ncontent = "SPAN_ONLY"\n'
        )
        with Gateway(tmp_path, config) as gateway:
            for run in runs:
                replay(gateway, run)
            ledger = [gateway.run(run["run_id"]) for run in runs]
            calls = [call for run in runs for call in gateway.items(f"/api/runs/{run['run_id']}/calls")]
            tools = [tool for run in runs for tool in gateway.items(f"/api/runs/{run['run_id']}/tools")]
            expected = len(runs) + len(calls) + len(tools)
            spans = settled(lambda: spans_in(phoenix) if project(phoenix) else [], lambda got: len(got) >= expected)

    kinds = Counter(span["span_kind"] for span in spans)
    assert {"AGENT": len(runs), "LLM": len(calls), "TOOL": len(tools)} == kinds
    assert len(calls) == sum(run["calls"] for run in ledger) > 30 and len(tools) > 15

    shown = settled(lambda: project(phoenix), lambda got: bool(got["costSummary"]["total"]["cost"]))
    assert (len(runs), expected) == (shown["traceCount"], shown["recordCount"])
    assert sum(run["input_tokens"] for run in ledger) == shown["tokenCountPrompt"]
    assert sum(run["output_tokens"] for run in ledger) == shown["tokenCountCompletion"]

    charged = sum(nusd(run["own_spent_usd"]) for run in ledger)
    exact = [span["attributes"].get("meterbox.cost.nusd", 0) for span in spans]
    assert charged == sum(exact) > 0
    by_its_table = Decimal(str(shown["costSummary"]["total"]["cost"])) * NUSD
    assert charged == round(by_its_table), "Phoenix's own price table says otherwise"

    dollars = f"${Decimal(charged) / NUSD} by the ledger, ${by_its_table / NUSD:.9f} by its own table"
    counts = f"{len(runs)} runs, {len(calls)} calls, {len(tools)} tools, {shown['tokenCountPrompt']} tokens in"
    print(f"\nphoenix: {counts}, {dollars}")

    traces = {run["run_id"]: run["trace_id"] for run in ledger}
    for span in spans:
        assert traces[span["attributes"]["meterbox.run.id"]] == span["context"]["trace_id"]
        assert span["attributes"]["session.id"] == span["attributes"]["meterbox.run.id"]
    roots = {span["context"]["span_id"] for span in spans if span["span_kind"] == "AGENT"}
    assert roots == {span["parent_id"] for span in spans if span["span_kind"] != "AGENT"}
    shown_content(spans, runs)
    names = Counter(span["name"] for span in spans if span["span_kind"] == "TOOL")
    assert Counter(f"execute_tool {tool['name']}" for tool in tools) == names
