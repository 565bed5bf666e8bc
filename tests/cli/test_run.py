"""`run`: the command is its own, its calls are one run, the receipt is talk."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gateway.cli.run import environment
from tests.cli.conftest import RUN

SHOW = "import os,sys; print(os.environ['OPENAI_BASE_URL'], os.environ['ANTHROPIC_BASE_URL']); print(sys.stdin.read())"


@pytest.fixture
def ready(box):
    """A gateway that makes and ends a run."""
    ended = {**RUN, "state": "ended", "outcome": "completed"}
    box.answers |= {"POST /api/runs": RUN, "GET /api/runs/r-1": RUN, "POST /api/runs/r-1/end": ended}
    return box


def test_base_urls_carry_the_run(ready, meterbox):
    """SDKs find the gateway, with the run in the path; the receipt is one line on stderr."""
    status, out, err = meterbox("run", "--", sys.executable, "-c", SHOW)
    base = f"http://127.0.0.1:{ready.port}/run/r-1"
    assert (0, [f"{base}/v1", base]) == (status, out.split())
    assert "meterbox: run r-1: 3 calls, $0.030000 of $1.00; meterbox runs show r-1\n" == err
    assert {} == next(body for line, body, _ in ready.asked if line == "POST /api/runs")


def test_frameworks_read_other_names():
    """The names that LiteLLM, LangChain and Aider read are set too; the rest stays."""
    assert {
        "PATH": "x", "OPENAI_BASE_URL": "b/v1", "OPENAI_API_BASE": "b/v1", "ANTHROPIC_BASE_URL": "b",
        "ANTHROPIC_API_BASE": "b", "METERBOX_RUN_ID": "r",
    } == environment({"PATH": "x", "OPENAI_BASE_URL": "old"}, "b", "r")  # fmt: skip


def test_a_proxy_is_not_asked_for_the_gateway():
    """Behind a proxy, the gateway's own host is spared; without one, nothing is set."""
    proxied = environment(
        {"https_proxy": "x", "HTTP_PROXY": "http://p", "no_proxy": "a"}, "http://127.0.0.1:1/run/r", "r"
    )
    assert ("127.0.0.1", "a,127.0.0.1") == (proxied["NO_PROXY"], proxied["no_proxy"])
    assert "NO_PROXY" not in environment({}, "http://127.0.0.1:1/run/r", "r")


def test_a_budget_limits_the_run_before_its_first_call(ready, meterbox):
    """--budget goes to the control plane, exact; options after CMD are CMD's own."""
    assert (
        0 == meterbox("run", "--budget", "0.10", "--", sys.executable, "-c", "import sys; sys.exit(0)", "--budget")[0]
    )
    assert {"limits": {"usd": "0.100000000"}} == next(body for line, body, _ in ready.asked if line == "POST /api/runs")
    assert 2 == meterbox("run", "--budget", "-1", "--", "true")[0]


def test_a_budget_above_the_configuration_is_said(ready, meterbox):
    """The lower of both is in force, and nobody has to find that out from a refusal."""
    ready.answers["POST /api/runs"] = {**RUN, "limits": {"usd": "1", "calls": 5, "tokens": None}}
    wanted = ("--budget", "2.5", "--limit", "calls=6, tokens=100")
    err = meterbox("run", *wanted, "--", sys.executable, "-c", "pass")[2].split("\n")
    assert [
        "meterbox: the configuration allows $1.00 a run, so that is this run's limit, not $2.50",
        "meterbox: the configuration allows 5 calls a run, so that is this run's limit, not 6 calls",
    ] == err[:2]
    assert "meterbox: run r-1" == err[2][:17]
    equal = meterbox("run", "--budget", "1.00", "--limit", "calls=5", "--", sys.executable, "-c", "pass")[2]
    assert "configuration" not in equal


def test_other_limits_go_with_the_run(ready, meterbox):
    """--limit names units and whole numbers; what can't be meant is a usage error and starts nothing."""
    command = ("--", sys.executable, "-c", "pass")
    assert 0 == meterbox("run", "--limit", "calls=4,tools=3,tokens=20,seconds=60", *command)[0]
    sent = next(body for line, body, _ in ready.asked if line == "POST /api/runs")
    assert {"limits": {"calls": 4, "tool_calls": 3, "tokens": 20, "seconds": 60}} == sent
    ready.asked.clear()
    for wrong in ("calls", "calls=", "calls=1.5", "calls=-1", "usd=1", "minutes=3", "calls=1,calls=2", "inflight=1"):
        assert 2 == meterbox("run", "--limit", wrong, *command)[0], wrong
    assert [] == ready.asked


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_status_is_the_commands(ready, meterbox, code, status):
    """As a shell would give it; the run ends as failed."""
    assert status == meterbox("run", "--", sys.executable, "-c", code)[0]
    assert {"outcome": "failed", "reason": f"exit status {status}"} == ready.asked[-1][1]


def test_an_option_that_nobody_knows_is_no_command(ready, meterbox):
    """It is said before anything runs; the command's own options stay its own."""
    status, _, err = meterbox("run", "--minutes", "1", "--", "true")
    assert (2, True) == (status, "--minutes" in err)
    assert [] == ready.asked
    assert 0 == meterbox("run", sys.executable, "-c", "import sys; sys.exit(sys.argv[1:] != ['--limit'])", "--limit")[0]


def test_a_command_that_is_not_there_is_told(ready, meterbox):
    """127 as a shell's, with the reason."""
    status, _, err = meterbox("run", "--", "no-such-command-x")
    assert 127 == status
    assert "no-such-command-x can't be run: No such file" in err


def test_a_receipt_that_cannot_be_had_changes_nothing(ready, meterbox):
    """The command's exit status stands even if the gateway is gone by then."""
    del ready.answers["GET /api/runs/r-1"]
    status, _, err = meterbox("run", "--", sys.executable, "-c", "raise SystemExit(3)")
    assert 3 == status
    assert "run r-1: no receipt: " in err


def test_stdin_and_signals_reach_the_command(ready, tmp_path):
    """A SIGTERM to meterbox is the command's to handle, and its exit status comes back."""
    code = (
        "import signal,sys,time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "print(sys.stdin.readline().strip(), flush=True)\n"
        "time.sleep(30)\n"
    )
    command = [sys.executable, "-m", "gateway", "run", "--", sys.executable, "-c", code]
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"through\n")
        process.stdin.flush()
        assert b"through\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert 42 == process.wait(10)
        assert b"meterbox: run r-1: 3 calls" in process.stderr.read()


def test_without_a_gateway_one_is_started_or_the_reason_is_told(tmp_path, monkeypatch, meterbox):
    """A gateway that can't start says why, and CMD isn't run unmetered."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meterbox.toml").write_text("[server]\nport = 1\n[stores.sqlite]\npath = '/proc/none/x'\n")
    before = time.monotonic()
    status, out, err = meterbox("run", "--", "echo", "unmetered")
    assert (1, "") == (status, out)
    assert "no gateway answers on http://127.0.0.1:1, and none could be started" in err
    assert time.monotonic() - before < 15
