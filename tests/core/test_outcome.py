"""Tests of core/outcome.py: how a call ended, in money."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.outcome import Ending, actual, conclude, fill, refused, unbilled
from gateway.core.presets import PRESETS
from gateway.core.price import CLASSES, RateCard, Rates, bound
from gateway.core.quote import Quote
from gateway.core.types import Call, Exchange, Refusal, Reply, Size, ToolCall, Usage
from tests.core.holding import made
from tests.walking import World, chat

MTOK = 1_000_000
FLAT: dict[str, Any] = dict.fromkeys(CLASSES, 1000 * MTOK)
PLAIN = Rates(**{**FLAT, "input": 150 * MTOK, "output": 600 * MTOK})
CARD = RateCard("m", "p", PLAIN)
DEAR = RateCard("dear", "p", Rates(**FLAT), source="override")
CALL = Call("d", PRESETS["openai"], "metered", model="m", size=Size(text_bytes=10, choices=2))
OFFER = Quote(card=CARD, input_tokens=100, output=50, want=1, least=1)
USAGE = Usage(input_tokens=10, output_tokens=20)
TOLD = Reply(usage=USAGE, usage_complete=True, ended=True)
COST = 10 * 150 + 20 * 600


def cards(model: str) -> RateCard | None:
    return {"m": CARD, "dear": DEAR}.get(model)


def ended(ending: Ending, reply: Reply = Reply(), offer: Quote = OFFER, call: Call = CALL) -> tuple[Any, ...]:  # noqa: B008
    return conclude(call, offer, ending, reply, cards)


UNBILLED = [
    (Ending("unsent", None, sent=False), True),
    (Ending("refused", None), True),
    (Ending("left", None, sent=False), True),
    (Ending("cut", None, sent=False), True),
    (Ending("broken", None), False),
    (Ending("left", None), False),
    (Ending(status=200), False),
    (Ending(status=302), False),
    *[(Ending(status=status), True) for status in (400, 401, 404, 408, 413, 429, 499, 503, 529)],
    *[(Ending(status=status), False) for status in (500, 501, 502, 504, 520, 599)],
    (Ending(status=500, own_error=True), True),
    *[(Ending(status=status, own_error=True), False) for status in (502, 504)],
]


@pytest.mark.parametrize(("ending", "free"), UNBILLED)
def test_only_what_cannot_have_been_billed_is_free(ending: Ending, free: bool):
    """The table of ledger.md section 6; whatever is in doubt is not free (P3)."""
    assert free == unbilled(ending)
    source, cost = ("refused", 0) if free else ("presumed", None)
    assert (source, cost) == ended(ending)[1:]


def test_what_was_told_is_charged_however_it_ended():
    """Complete usage wins over how the wire looked last (R-087)."""
    for ending in (Ending(status=200), Ending("cut", 200), Ending("left", 200), Ending("broken", 200)):
        assert ("price_list", COST) == ended(ending, TOLD)[1:]


def test_a_part_way_figure_is_never_the_bill():
    """Input told at the start, and no end: presumed (ledger.md section 6)."""
    part = Reply(usage=Usage(input_tokens=10))
    assert ("client_left", "presumed", None) == ended(Ending("left", 200), part)
    assert ("upstream_error", "presumed", None) == ended(Ending("broken", 200), part)


def test_a_cut_is_estimated_from_what_was_counted():
    """Input bound and counted output, shared evenly over the choices and rounded up."""
    outcome, source, cost = ended(Ending("cut", 200, output_tokens=9))
    assert ("cut", "estimate", bound(CARD, CALL.size, 100, 5)) == (outcome, source, cost)


OUTCOMES = [
    (Ending("refused", None), Reply(), "refused"),
    (Ending("left", 200), Reply(ended=True), "client_left"),
    (Ending("cut", 200), Reply(), "cut"),
    (Ending("broken", 200), Reply(ended=True), "upstream_error"),
    (Ending("unsent", None, sent=False), Reply(), "upstream_error"),
    (Ending(status=400), Reply(ended=True), "upstream_error"),
    (Ending(status=200), Reply(error="overloaded", ended=True), "upstream_error"),
    (Ending(status=200), Reply(ended=True), "ok"),
    (Ending(status=200), Reply(usage=USAGE, usage_complete=True), "ok"),
    (Ending(status=200), Reply(), "unknown"),
]


@pytest.mark.parametrize(("ending", "reply", "outcome"), OUTCOMES)
def test_each_way_has_its_word(ending: Ending, reply: Reply, outcome: str):
    """The six outcomes of http.md section 4."""
    assert outcome == ended(ending, reply)[0]


def test_the_model_that_answered_sets_the_price():
    """The answer's own name first, the asked one where that is unknown; what neither prices is unknown, never 0."""
    told = Reply(usage=USAGE, usage_complete=True)
    told.model = "dear"
    assert ("override", 30 * 1000) == ended(Ending(status=200), told)[1:]
    told.model = "nobody"
    assert ("price_list", COST) == ended(Ending(status=200), told)[1:]
    assert ("unknown_model", None) == ended(Ending(status=200), told, Quote(card=None))[1:]


def test_without_a_price_nothing_is_presumed():
    """Nothing was held: no usage told is `no_usage`, usage that stopped half-way `unknown_model`; both are null."""
    none = Quote(card=None)
    assert ("no_usage", None) == ended(Ending(status=200), Reply(), none)[1:]
    assert ("unknown_model", None) == ended(Ending("left", 200), Reply(usage=USAGE), none)[1:]
    assert ("unknown_model", None) == ended(Ending("cut", 200), Reply(usage=USAGE), none)[1:]


def test_a_stated_cost_is_believed_and_a_stated_zero_is_not():
    """What the provider says it billed wins; 0 beside used tokens only where it is meant (design.md section 2)."""
    for stated, zero_ok, source, cost in (
        (5, False, "provider", 5),
        (0, False, "price_list", COST),
        (0, True, "provider", 0),
    ):
        reply = Reply(usage=USAGE, usage_complete=True, stated_nusd=stated, stated_zero_ok=zero_ok)
        assert (source, cost) == ended(Ending(status=200), reply)[1:]
    unused = Reply(usage=Usage(input_tokens=0, output_tokens=0), usage_complete=True, stated_nusd=0)
    assert ("provider", 0) == ended(Ending(status=200), unused)[1:]


def test_tokens_of_other_models_are_priced_by_their_own_cards():
    """What ran beside (a search model, a judge) costs its own price, else the call's."""
    usage = Usage(input_tokens=10, output_tokens=20, extra=[("dear", 1, 1), ("nobody", 1, 1)])
    reply = Reply(usage=usage, usage_complete=True)
    assert COST + 2000 + 750 == ended(Ending(status=200), reply)[2]


def test_a_refusal_that_was_never_sent_names_itself():
    """`refused`, but for a caller who left."""
    assert ("refused", "price_unknown", False) == outcome_of(Refusal(402, "price_unknown", ""))
    assert ("left", "client_left", False) == outcome_of(Refusal(503, "client_left", ""))


def outcome_of(refusal: Refusal) -> tuple[str, str, bool]:
    ending = refused(refusal)
    return ending.way, ending.reason, ending.sent


def test_a_record_keeps_what_the_answer_said():
    """Names, ids, usage and tool calls; our own reason first, else the provider's word."""
    record = Exchange("c", "r", 1, "d", "p", "chat", "m", False, 0.0)
    calls = [ToolCall("t", "x")]
    fill(record, Reply("m2", "id", "stop", USAGE, tool_calls=calls, error="e", links=(1,)), Ending(status=200))
    assert ("m2", "id", "stop", USAGE, calls, (1,), "e", 200) == (
        record.response_model, record.response_id, record.finish_reason, record.usage, record.tool_calls,
        record.links, record.reason, record.status,
    )  # fmt: skip
    fill(record, Reply(error="e"), Ending("cut", None, "run_killed"))
    assert ("run_killed", None) == (record.reason, record.status)


def used(ending: Ending, reply: Reply, source: str = "price_list", held: int = 0) -> dict[str, int]:
    step = made(World(), chat(max_tokens=50))
    step.record.cost_source, step.record.cost_nusd = source, 7  # type: ignore[assignment]  # one of the words
    step.held = {"nusd": 9, "tokens": held}
    return actual(step, ending, reply)


def test_every_unit_is_counted():
    """Dollars, calls, tool calls, and tokens with those of other models that ran beside."""
    calls = [ToolCall("a", "x"), ToolCall("b", "x")]
    told = Reply(usage=USAGE, usage_complete=True, tool_calls=calls)
    assert {"nusd": 7, "calls": 1, "tool_calls": 2, "tokens": 30} == used(Ending(status=200), told)
    beside = Reply(usage=Usage(input_tokens=10, output_tokens=20, extra=[("n", 1, 2)]), usage_complete=True)
    assert 33 == used(Ending(status=200), beside)["tokens"]


def test_tokens_that_nobody_told_are_charged_as_held():
    """What is missing the ledger charges as it holds it: a part-way report is never settled at."""
    for ending in (Ending(status=200), Ending("left", 200), Ending("broken", 200)):
        assert {"nusd": 7, "calls": 1, "tool_calls": 0} == used(ending, Reply(usage=USAGE), "presumed")


def test_tokens_of_a_cut_answer_are_counted():
    """The input's bound and what was counted, and never less than is held (ledger.md section 6)."""
    bound_in = made(World(), chat(max_tokens=50)).offer.input_tokens
    cut = Ending("cut", 200, output_tokens=400)
    assert bound_in + 400 == used(cut, Reply(), "estimate", held=300)["tokens"]
    assert 9000 == used(cut, Reply(), "estimate", held=9000)["tokens"]
    assert 30 == used(cut, Reply(usage=USAGE, usage_complete=True), "price_list", held=9000)["tokens"]


def test_a_call_counts_as_one_once_it_was_sent():
    """Also where nobody bills it (429); not where no byte can have left, or we refused it."""
    for ending, calls in (
        (Ending(status=429), 1),
        (Ending("cut", None, "run_killed"), 1),
        (Ending("unsent", None, sent=False), 0),
        (Ending("left", None, sent=False), 0),
        (refused(Refusal(402, "limit_calls", "")), 0),
    ):
        assert {"nusd": 7, "calls": calls, "tool_calls": 0, "tokens": 0} == used(ending, Reply(), "refused")
