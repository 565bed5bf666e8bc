"""A refusal as an HTTP answer: status, headers and body, with the one table of clients that misread some status.

Invariant: a final refusal costs its client exactly one attempt, and the body is the same for every client.
"""

from __future__ import annotations

from gateway.core.ports import Dialect
from gateway.core.types import Refusal

# http.md section 3: what a known client retries or misreads, and what it gets instead. Measured: Codex asks six times
# after 402 or 403; Claude Code shows 403 as "Failed to authenticate".
INSTEAD = {
    ("codex", 402): 400,
    ("codex", 403): 400,
    ("claude-code", 403): 402,
}


def answer(refusal: Refusal, dialect: Dialect, client: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """Spells a refusal in its caller's dialect. Only retryable ones carry Retry-After (http.md section 3)."""
    headers = [
        ("content-type", "application/json"),
        ("x-should-retry", "true" if refusal.retryable else "false"),
    ]
    if refusal.retry_after_s is not None:
        headers.append(("retry-after", str(refusal.retry_after_s)))
    if refusal.run_id is not None:
        headers.append(("x-meterbox-run-id", refusal.run_id))
    return INSTEAD.get((client, refusal.status), refusal.status), headers, dialect.refuse(refusal)
