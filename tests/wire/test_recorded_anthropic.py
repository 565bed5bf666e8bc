"""Every recorded Anthropic exchange, read as the gateway reads it."""

from __future__ import annotations

import pytest

from gateway.core.types import Call, Edits
from gateway.dialects.anthropic import Anthropic
from tests.wire.recorded import (
    HIDDEN_TOKENS,
    bounded_by_bytes,
    cuts,
    differences,
    exchanges,
    inbound_of,
    provider_of,
    read_stream,
    unoffered,
)

pytestmark = pytest.mark.shared

# Exchanges whose answer we read differently than the ground truth, each with the reason. None is known.
KNOWN: dict[str, str] = {}


def test_every_recorded_request_decodes():
    """R-060: a request that a real client sent is understood, and its bytes bound the input that was billed."""
    dialect = Anthropic()
    for row in exchanges("anthropic-messages"):
        inbound = inbound_of(row)
        assert dialect.matches(row["method"], inbound.match), row["path"]
        call = dialect.decode(inbound, provider_of(row, dialect.name))
        assert ("metered", row["request_body"]["model"]) == (call.kind, call.model)
        assert row["request_body"]["max_tokens"] == call.size.asked_output
        assert inbound.body == dialect.rewrite(call, inbound.body, Edits(ask_usage=True))
        if bounded_by_bytes(call):
            assert (row["expected"]["input_tokens"] or 0) <= call.size.text_bytes + HIDDEN_TOKENS, row["id"]


def test_every_recorded_answer_is_read_as_it_was_billed():
    """R-087: tokens, model, finish reason and tool names equal the ground truth in at least 99.5 % of exchanges, and a
    stream gives the same bytes and the same Reply however it is cut."""
    dialect = Anthropic()
    rows = exchanges("anthropic-messages")
    wrong = {}
    for row in rows:
        call = dialect.decode(inbound_of(row), provider_of(row, dialect.name))
        found = _differences(dialect, call, row)
        if found and row["id"] not in KNOWN:
            wrong[row["id"]] = found
    assert {} == wrong
    assert len(rows) * 0.005 >= len(KNOWN)


def _differences(dialect: Anthropic, call: Call, row) -> dict:
    body = row["response_body"].encode()
    if not row["response_body"].startswith("event:"):
        reply = dialect.whole(call, row["status"], body)
    else:
        read = [read_stream(dialect.reader(call, False), pieces) for pieces in cuts(body, row["id"])]
        assert [body] * len(read) == [out for out, _ in read], row["id"]
        reply = read[0][1]
        assert [reply] * len(read) == [other for _, other in read], row["id"]
    found = differences(reply, row["expected"])
    expected = row["expected"]
    if expected["unoffered_tool_calls"] != unoffered(reply):
        found["unoffered"] = (expected["unoffered_tool_calls"], unoffered(reply))
    if expected["complete"] != reply.ended:
        found["complete"] = (expected["complete"], reply.ended)
    if (row["status"] == 200) != reply.usage_complete:
        found["usage_complete"] = (row["status"] == 200, reply.usage_complete)
    return found
