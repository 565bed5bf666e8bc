"""Ids of traces and spans, each derived from what it names, so that every process, restart and repeat says the same.

Invariant: the same run, call, tool call, attempt or change gives the same id; no id is all zeros (W3C Trace Context
section 3.2.2). What never enters: chance, a counter, a clock.
"""

from __future__ import annotations

import re
from typing import Final

from xxhash import xxh3_64_hexdigest

from gateway.core.life import trace_id

_TRACE: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN: Final = re.compile(r"(?!0{16})[0-9a-f]{16}")
_INSTEAD: Final = "0000000000000001"


def trace_of(run_key: str, told: str | None) -> str:
    """The trace of a run: what its caller's traceparent said, else what derives from the run."""
    return told if told is not None and _TRACE.fullmatch(told) else trace_id(run_key)


def span_of(told: str | None) -> str | None:
    """A caller's span id, if it is one."""
    return told if told is not None and _SPAN.fullmatch(told) else None


def root_id(run_key: str, episode: int) -> str:
    """The `invoke_agent` span of one episode of a run."""
    return _derived("root", run_key, str(episode))


def call_id(call: str) -> str:
    """The span of one call."""
    return _derived("call", call)


def tool_id(run_key: str, call: str, position: int, tool_call: str) -> str:
    """The span of one tool call: ids of tool calls repeat within real runs, this key doesn't."""
    return _derived("tool", run_key, call, str(position), tool_call)


def attempt_id(call: str, number: int) -> str:
    """The span of one upstream try."""
    return _derived("attempt", call, str(number))


def amend_id(call: str, seq: int) -> str:
    """The span that tells what an entry of the journal changed of a call."""
    return _derived("amend", call, str(seq))


def feedback_id(run_key: str, seq: int) -> str:
    """The span that tells of a judgement which came after its run's root was sent."""
    return _derived("feedback", run_key, str(seq))


def event_id(*parts: str) -> str:
    """What a log record is known by, however often it is sent."""
    return _derived("event", *parts)


def _derived(*parts: str) -> str:
    found = xxh3_64_hexdigest("\0".join(parts).encode("utf-8", "surrogatepass"))
    return found if _SPAN.fullmatch(found) else _INSTEAD
