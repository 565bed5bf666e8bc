"""The story: amounts are exact texts, and every promise is a comparison of counted figures."""

import json
import subprocess
import sys
from decimal import Decimal

import pytest

from gateway.demo.story import AGENTS, STREAMS, nusd


def test_dollars_are_whole_nano_dollars():
    """No float near money."""
    assert 1_000_000_001 == nusd("1.000000001")


@pytest.mark.timeout(120)
def test_the_demo_keeps_its_promises(tmp_path):
    """`demo --headless --json`, whole: no key, no network, nothing left behind (must hold 2)."""
    command = [sys.executable, "-m", "gateway", "demo", "--headless", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"TMPDIR": str(tmp_path)}, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    told = json.loads(done.stdout)
    assert told["ok"] and all(promise["kept"] for promise in told["promises"])
    lanes = {lane["name"]: lane for lane in told["lanes"]}
    assert Decimal(10) < Decimal(lanes["direct"]["provider_bill_usd"])
    guarded = lanes["demo-runaway"]
    assert Decimal("0.5") < Decimal(guarded["provider_bill_usd"]) <= Decimal(1)
    assert guarded["provider_bill_usd"] == guarded["ledger_usd"]
    assert (AGENTS, "0.000000000") == (guarded["refused"], guarded["held_after_usd"])
    killed = lanes["demo-killed"]
    assert STREAMS == killed["cut"]
    assert Decimal(killed["provider_bill_usd"]) < Decimal(killed["ledger_usd"]) <= Decimal(1)
    assert 30 > told["seconds"]
    assert [] == list(tmp_path.iterdir())
