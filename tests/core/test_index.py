"""Claims about conversations that are known again: by hash chain, by tool call ids, by the latest answer."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.index import Index, Match
from gateway.core.types import Call, Exchange, Lineage, Provider, Reply, Result, ToolCall
from gateway.core.wire.history import chain, text_hash

PROVIDER = Provider("openai", "openai", "https://api.openai.com", ("openai-chat",))


def call(*links: int, answers: tuple[int, ...] = (), **more: Any) -> Call:
    """A request of these message hashes; `answers`: positions of the model's own."""
    last = links[answers[-1]] if answers else 0
    fields = {name: more.pop(name) for name in ("ids", "system") if name in more}
    line = Lineage(first=links[0], chain=chain(links), answers=answers, last_answer=last, **fields)
    return Call("openai-chat", PROVIDER, "metered", lineage=line, **{"model": "m", **more})


def said(link: int, *ids: str, arguments: str = "") -> Reply:
    return Reply(links=(link,), tool_calls=[ToolCall(name, "tool", digest=text_hash(arguments)) for name in ids])


def test_a_request_that_quotes_the_answer_continues_the_run() -> None:
    """(a) The chain over the request and its answer is the start of the next request's chain."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3), 0.0)
    assert Match("a", "chain") == index.find("t", call(1, 2, 3, 4, answers=(2,)), b"")


def test_the_longest_chain_wins() -> None:
    """Two runs with the same start: the one whose answer comes later in the request."""
    index = Index()
    index.note("t", "a", call(1), said(2), 0.0)
    index.note("t", "b", call(1, 2, 3, answers=(1,)), said(4), 0.0)
    assert Match("b", "chain") == index.find("t", call(1, 2, 3, 4, 5, answers=(1, 3)), b"")


def test_a_branch_from_an_earlier_answer_stays_in_its_run() -> None:
    """Parallel calls and tries from an earlier state belong together."""
    index = Index()
    index.note("t", "a", call(1), said(2), 0.0)
    index.note("t", "a", call(1, 2, 3, answers=(1,)), said(4), 0.0)
    assert Match("a", "chain") == index.find("t", call(1, 2, 9, answers=(1,)), b"")


def test_equal_prompts_are_told_apart_by_their_answers() -> None:
    """The answer that passed through is part of the chain."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3), 0.0)
    index.note("t", "b", call(1, 2), said(4), 0.0)
    assert Match("b", "chain") == index.find("t", call(1, 2, 4, 5, answers=(2,)), b"")


def test_a_first_request_is_a_new_run() -> None:
    """Nothing is quoted, so nothing is continued, however often the same was asked."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3), 0.0)
    assert index.find("t", call(1, 2), b"") is None


def test_two_runs_that_can_not_be_told_apart_get_neither_call() -> None:
    """A new run rather than a merged one."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3), 0.0)
    index.note("t", "b", call(1, 2), said(3), 0.0)
    assert index.find("t", call(1, 2, 3, 4, answers=(2,)), b"") is None


def test_of_two_equal_starts_the_one_that_has_not_gone_on_is_continued() -> None:
    """(c) narrows: the last answer quoted is the latest of one run only."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3), 0.0)
    index.note("t", "a", call(1, 2, 3, 4, answers=(2,)), said(5), 0.0)
    index.note("t", "b", call(1, 2), said(3), 0.0)
    assert Match("b", "trimmed") == index.find("t", call(1, 2, 3, 6, answers=(2,)), b"")


def test_tool_call_ids_link_where_the_history_was_rewritten() -> None:
    """(b) Ids in fields, of any length."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3, "c1"), 0.0)
    index.note("t", "b", call(1, 2), said(3, "c2"), 0.0)
    assert Match("b", "ids") == index.find("t", call(1, 99, answers=(1,), ids=("c2",)), b"")


@pytest.mark.parametrize(
    "text",
    [
        b"\"Calling tools: [{'id': 'call_ab12'}]\"",
        b'"Result of\\ncall_ab12: 3"',
        b'"\\u003ccall_ab12\\u003e"',
        b'"{\\"id\\":\\"call_ab12\\"}"',
        b'"see call_ab12."',
    ],
)
def test_tool_call_ids_link_in_prose(text: bytes) -> None:
    """(b) smolagents sends neither tool messages nor ids in fields."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3, "call_ab12"), 0.0)
    assert Match("a", "prose") == index.find("t", call(8, 9), b'{"messages":[' + text + b"]}")


@pytest.mark.parametrize(("given", "quoted"), [("c1", b"c1"), ("callback", b"callback"), ("call_12", b"call_123")])
def test_words_of_prose_are_not_taken_for_ids(given: str, quoted: bytes) -> None:
    """Short ids, ids without a digit, and parts of longer words count in fields only."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3, given), 0.0)
    assert index.find("t", call(8, 9), b'{"messages":["' + quoted + b'"]}') is None


def test_a_reused_id_is_narrowed_by_the_latest_answer() -> None:
    """(b) names two runs, (c) one of them (tau-bench airline reuses ids between runs)."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3, "call_7"), 0.0)
    index.note("t", "b", call(1, 5), said(6, "call_7"), 0.0)
    assert Match("b", "trimmed") == index.find("t", call(1, 6, 8, answers=(1,), ids=("call_7",)), b"")


def test_a_trimmed_history_is_known_by_its_first_message_and_last_answer() -> None:
    """(c) No tool call, the middle cut out; with another first message it is another conversation."""
    index = Index()
    index.note("t", "a", call(1, 2, 3, answers=(1,)), said(4), 0.0)
    assert Match("a", "trimmed") == index.find("t", call(1, 4, 5, answers=(1,)), b"")
    assert index.find("t", call(9, 4, 5, answers=(1,)), b"") is None


def test_a_trimmed_history_that_two_runs_share_is_a_new_run() -> None:
    """(c) Exactly one run, or none."""
    index = Index()
    for run in "ab":
        index.note("t", run, call(1, 2, 3, answers=(1,)), said(4), 0.0)
    assert index.find("t", call(1, 4, 5, answers=(1,)), b"") is None


def test_equal_conversations_are_told_apart_by_model() -> None:
    """One task given to two models at once."""
    index = Index()
    for model in ("m1", "m2"):
        index.note("t", model, call(1, 2, model=model), said(3, "call_0"), 0.0)
    request = call(1, 2, 3, 4, answers=(2,), ids=("call_0",), model="m2")
    assert Match("m2", "likeness") == index.find("t", request, b"{}")


def test_equal_conversations_are_told_apart_by_what_was_asked() -> None:
    """Answers without text and with ids that repeat differ in their arguments only (InterCode)."""
    index = Index()
    for run in ("ls", "pwd"):
        index.note("t", run, call(1, 2), said(3, "call_0", arguments=f'{{"command": "{run}"}}'), 0.0)
    request = call(1, 2, 3, 4, answers=(2,), ids=("call_0",))
    body = b'{"messages":[{"tool_calls":[{"function":{"arguments":"{\\"command\\": \\"pwd\\"}"}}]}]}'
    assert Match("pwd", "likeness") == index.find("t", request, body)
    assert index.find("t", request, b'{"messages":[]}') is None


def test_equal_conversations_are_told_apart_by_tool_results() -> None:
    """In a trimmed history, the results that the run had seen before its latest answer."""

    def seen(digest: int, at: int) -> Result:
        return Result("call_0", None, False, digest, 1, at)

    index = Index()
    for digest in (70, 80):
        asking = call(1, 2, 3, digest, answers=(2,), ids=("call_0",), results=(seen(digest, 3),))
        index.note("t", f"saw {digest}", asking, said(5, "call_1"), 0.0)
    request = call(1, 80, 5, 90, answers=(2,), ids=("call_0", "call_1"), results=(seen(80, 1), seen(90, 3)))
    assert Match("saw 80", "likeness") == index.find("t", request, b"{}")


def test_tenants_never_join() -> None:
    """The same conversation, ids and response id under two credentials are two runs."""
    index = Index()
    index.note("t", "a", call(1, 2), said(3, "call_1234"), 0.0)
    index.own("t", "resp_1", "a")
    request = call(1, 2, 3, 4, answers=(2,), ids=("call_1234",))
    assert index.find("u", request, b'"call_1234"') is None
    assert index.owner("u", "resp_1") is None
    index.note("u", "b", call(5), said(6), 0.0)
    assert index.find("u", request, b'"call_1234"') is None


def test_the_run_used_least_lately_is_forgotten_first() -> None:
    """A bounded number of runs; `find` counts as use, and what is forgotten leaves nothing behind."""
    index = Index(most_runs=2)
    for number, run in enumerate("ab"):
        index.note("t", run, call(1, number), said(3, f"call_{number}"), 0.0)
    assert index.find("t", call(1, 0, 3, answers=(2,)), b"") == Match("a", "chain")
    index.note("t", "c", call(1, 2), said(3), 0.0)
    assert 2 == len(index)
    assert index.find("t", call(1, 0, 3, answers=(2,)), b"") == Match("a", "chain")
    assert index.find("t", call(9, 1, answers=(), ids=("call_1",)), b"") is None


def test_a_forgotten_tenant_leaves_nothing() -> None:
    """Its maps go with its last run."""
    index = Index(most_runs=1)
    index.note("t", "a", call(1), said(2, "call_1"), 0.0)
    index.note("u", "b", call(1), said(2), 0.0)
    assert 1 == len(index) == index.links
    assert ["u"] == list(index._houses)


def test_entries_are_bounded_over_all_runs_and_in_each() -> None:
    """Long runs forget their oldest answers, and many entries push out whole runs."""
    index = Index(most_per_run=10, most_links=25)
    for run in "abcd":
        for step in range(30):
            index.note("t", run, call(ord(run), step), said(step, f"call_{run}{step}"), 0.0)
    assert 2 == len(index)
    assert 20 == index.links
    assert 20 == sum(len(book) for house in index._houses.values() for book in (house.chains, house.ids))
    assert 2 == sum(len(house.lasts) for house in index._houses.values())


def test_conversations_within_a_run_are_bounded() -> None:
    """A run with many beginnings keeps the latest answers of the newest eight."""
    index = Index()
    for first in range(1, 50):
        index.note("t", "a", call(first), said(100 + first), 0.0)
    assert 8 == len(index._houses["t"].lasts)
    assert Match("a", "trimmed") == index.find("t", call(49, 5, 149, 7, answers=(2,)), b"")


def test_failed_calls_are_bounded() -> None:
    """The oldest is forgotten; so are twins of one question beyond sixteen."""
    index = Index(most_failed=3)
    for number in range(10):
        index.note("t", "a", call(1, number), Reply(), 0.0)
    assert 3 == index.failures
    for number in range(40):
        index.note("t", f"r{number}", call(5), Reply(), 0.0)
    assert 16 == max(len(twins) for twins in index._failed.values())


def test_an_id_that_a_crowd_shares_tells_nothing() -> None:
    """Nor does it cost time; the latest answer decides."""
    index = Index()
    for number in range(300):
        index.note("t", f"r{number}", call(1, number), said(1000 + number, "call_0"), 0.0)
    assert Match("r7", "trimmed") == index.find("t", call(1, 1007, 5, answers=(1,), ids=("call_0",)), b"")
    assert index.find("t", call(1, 5, ids=("call_0",)), b"") is None


def test_the_journal_brings_the_memory_back() -> None:
    """After a restart a conversation goes on; refused and failed calls had no answer."""
    index = Index()
    asking = call(1, 2)
    row: dict[str, Any] = {
        "call_id": "c",
        "step": 1,
        "dialect": "openai-chat",
        "provider": "openai",
        "operation": "chat",
        "request_model": "m",
        "stream": False,
        "started_at": 0.0,
        "tenant": "t",
    }
    index.restore(
        Exchange(
            run="a",
            lineage=asking.lineage,
            links=(3,),
            tool_calls=[ToolCall("call_12", "x")],
            response_id="resp_1",
            **row,
        )
    )
    index.restore(Exchange(run="b", lineage=asking.lineage, links=(8,), outcome="refused", **row))
    assert Match("a", "chain") == index.find("t", call(1, 2, 3, 4, answers=(2,)), b"")
    assert Match("a", "prose") == index.find("t", call(7), b'"call_12"')
    assert "a" == index.owner("t", "resp_1")
    assert index.find("t", call(1, 2, 8, 4, answers=(2,)), b"") is None
