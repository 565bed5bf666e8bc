"""Every recorded exchange of the Responses API, read as the gateway reads it."""

from __future__ import annotations

import pytest

from gateway.core.types import Call, Edits
from gateway.dialects.openai_responses import OpenAIResponses
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
DIALECTS = ("openai-responses", "openai-responses-retrieve")


@pytest.mark.parametrize("recorded", DIALECTS)
def test_every_recorded_request_decodes(recorded):
    """R-060: a request that a real client sent is understood, and its bytes bound the input that was billed."""
    dialect = OpenAIResponses()
    for row in exchanges(recorded):
        inbound = inbound_of(row)
        assert dialect.matches(row["method"], inbound.match), row["path"]
        call = dialect.decode(inbound, provider_of(row, dialect.name))
        if row["method"] == "GET":
            assert ("retrieve", row["expected"]["response_id"]) == (call.kind, call.response_id)
            continue
        assert ("metered", row["request_body"]["model"]) == (call.kind, call.model)
        assert row["request_body"].get("max_output_tokens") == call.size.asked_output
        assert inbound.body == dialect.rewrite(call, inbound.body, Edits(ask_usage=True))
        if bounded_by_bytes(call):
            assert (row["expected"]["input_tokens"] or 0) <= call.size.text_bytes + HIDDEN_TOKENS, row["id"]


@pytest.mark.parametrize("recorded", DIALECTS)
def test_every_recorded_answer_is_read_as_it_was_billed(recorded):
    """R-087: tokens, model, finish reason and tool names equal the ground truth in at least 99.5 % of exchanges, and a
    stream gives the same bytes and the same Reply however it is cut."""
    dialect = OpenAIResponses()
    rows = exchanges(recorded)
    wrong = {}
    for row in rows:
        call = dialect.decode(inbound_of(row), provider_of(row, dialect.name))
        found = _differences(dialect, call, row)
        if found and row["id"] not in KNOWN:
            wrong[row["id"]] = found
    assert {} == wrong
    assert len(rows) * 0.005 >= len(KNOWN)


def _differences(dialect: OpenAIResponses, call: Call, row) -> dict:
    body = row["response_body"].encode()
    expected = row["expected"]
    if "\ndata: " in body.decode() or body.startswith(b"data:"):
        read = [read_stream(dialect.reader(call, False), pieces) for pieces in cuts(body, row["id"])]
        assert [body] * len(read) == [out for out, _ in read], row["id"]
        reply = read[0][1]
        assert [reply] * len(read) == [other for _, other in read], row["id"]
    else:
        reply = dialect.whole(call, row["status"], body)
    found = differences(reply, expected)
    if expected["unoffered_tool_calls"] != unoffered(reply):
        found["unoffered"] = (expected["unoffered_tool_calls"], unoffered(reply))
    if expected["cost_reported"] is not None and reply.stated_nusd != round(expected["cost_reported"] * 10**9):
        found["cost"] = (expected["cost_reported"], reply.stated_nusd)
    if not reply.ended:
        found["ended"] = (True, False)
    # one answer of OpenAI tells zeros beside two tool calls: nobody would call that a bill
    billed = bool(expected["input_tokens"] or expected["output_tokens"])
    if billed != reply.usage_complete:
        found["usage_complete"] = (billed, reply.usage_complete)
    return found
