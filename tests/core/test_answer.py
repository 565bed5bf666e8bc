"""Tests of core/answer.py."""

from gateway.core.answer import answer
from gateway.core.types import Refusal
from tests.core.speaking import Speaking

BUDGET = Refusal(402, "insufficient_quota", "spent", run_id="r1")
KILLED = Refusal(403, "run_killed", "killed")
BUSY = Refusal(503, "overloaded", "busy", retryable=True, retry_after_s=2)


def test_a_final_refusal_asks_for_no_retry():
    """A budget refusal says x-should-retry: false and carries no Retry-After (R-086)."""
    status, headers, body = answer(BUDGET, Speaking(), "")
    assert status == 402
    assert dict(headers)["x-should-retry"] == "false"
    assert "retry-after" not in dict(headers)
    assert body == b"insufficient_quota"


def test_a_passing_trouble_says_when_to_come_back():
    """A retryable refusal carries Retry-After and x-should-retry: true."""
    _, headers, _ = answer(BUSY, Speaking(), "")
    assert dict(headers)["retry-after"] == "2"
    assert dict(headers)["x-should-retry"] == "true"


def test_codex_gets_400_for_402_and_403():
    """Codex asks six times after 402 or 403, so it gets 400 with the same body."""
    assert answer(BUDGET, Speaking(), "codex")[0] == 400
    assert answer(KILLED, Speaking(), "codex")[0] == 400
    assert answer(KILLED, Speaking(), "codex")[2] == answer(KILLED, Speaking(), "")[2]


def test_claude_code_gets_402_for_403():
    """Claude Code shows 403 as a failed login, so it gets 402; its 402 stays."""
    assert answer(KILLED, Speaking(), "claude-code")[0] == 402
    assert answer(BUDGET, Speaking(), "claude-code")[0] == 402
