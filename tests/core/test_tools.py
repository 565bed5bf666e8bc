"""Claims about tool spans and about what counts as a failed tool."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.core.tools import ToolSpan, fresh, looks_like_error, spans
from gateway.core.types import Call, Exchange, Lineage, Provider, Result, ToolCall


@pytest.mark.parametrize(
    "text",
    [
        "Error: no such file",
        "error",
        "  \n ERROR something",
        "Error\nline two",
        "Exception: boom",
        "exception: boom",
        "Traceback (most recent call last):\n  File",
        "bash: foo: command not found",
        "/bin/sh: line 1: foo: command not found\nmore",
        '{"error": "user not found"}',
        '{"is_error": true, "content": "x"}',
        '{"isError": 1}',
        '{"v": NaN, "error": "x"}',
        '{"\\u0065rror": "x"}',
    ],
)
def test_a_failed_tool_is_recognised(text: str) -> None:
    """Each spelling of http.md section 4 counts as an error."""
    assert looks_like_error(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Errors were not found",
        "error_count: 0",
        "No error",
        "ErrorCode 3",
        "Exceptional work",
        "fine\nbash: foo: command not found",
        "the words command not found",
        '{"error": null}',
        '{"error": ""}',
        '{"error": false, "is_error": 0}',
        '{"result": {"error": "inner"}}',
        '["error"]',
        '{"error": "cut',
        '{"a": ' * 5000 + "rror",
    ],
)
def test_a_plain_result_is_no_error(text: str) -> None:
    """A word that merely contains `error`, an inner field or broken JSON is no failure."""
    assert looks_like_error(text) is False


# --------------------------------------------------------------------------- spans


def exchange(step: int, *tools: ToolCall, results: Sequence[Result] = (), at: float | None = None) -> Exchange:
    """A call that lasts from ten seconds times its step for one second."""
    began = 10.0 * step if at is None else at
    return Exchange(
        call_id=f"c{step}",
        run="r",
        step=step,
        dialect="openai-chat",
        provider="openai",
        operation="chat",
        request_model="m",
        stream=False,
        started_at=began,
        ended_at=began + 1,
        tool_calls=list(tools),
        results=list(results),
    )


def result(id_: str, digest: int = 0, *, failed: bool = False, name: str | None = None) -> Result:
    return Result(id_, name, failed, digest, 1, 3)


def test_a_span_lasts_from_the_answer_to_the_request_with_the_result() -> None:
    """Reply N asks, request N+1 brings the result (http.md section 4)."""
    found = spans([exchange(1, ToolCall("a", "ls")), exchange(2, results=[result("a", failed=True)])])
    assert [ToolSpan("c1", 0, "a", "ls", 1, 11.0, 20.0, 9000, is_error=True)] == found


def test_a_tool_without_a_result_has_no_end() -> None:
    """ended_at is null until its result is seen."""
    assert [ToolSpan("c1", 0, "a", "ls", 1, 11.0)] == spans([exchange(1, ToolCall("a", "ls")), exchange(2)])


def test_history_that_is_sent_again_adds_no_span() -> None:
    """A second result of the same id closes nothing."""
    found = spans(
        [exchange(1, ToolCall("a", "ls")), exchange(2, results=[result("a")]), exchange(3, results=[result("a")])]
    )
    assert [20.0] == [span.ended_at for span in found]


def test_ids_may_repeat_within_a_run() -> None:
    """A result closes the latest open call of its id; each call keeps a span of its own (tau-bench airline)."""
    found = spans(
        [
            exchange(1, ToolCall("a", "ls")),
            exchange(2, ToolCall("a", "cat"), results=[result("a")]),
            exchange(3, ToolCall("a", "rm")),
            exchange(4, results=[result("a")]),
        ]
    )
    assert [("ls", 20.0), ("cat", None), ("rm", 40.0)] == [(span.name, span.ended_at) for span in found]


def test_one_answer_may_use_an_id_twice() -> None:
    """The key has the position in it; results come in the order of the calls."""
    found = spans(
        [
            exchange(1, ToolCall("a", "ls"), ToolCall("a", "cat")),
            exchange(2, results=[result("a"), result("a", failed=True)]),
        ]
    )
    assert [(0, "ls", False), (1, "cat", True)] == [(span.position, span.name, span.is_error) for span in found]


def test_a_tool_without_an_id_is_matched_by_name_and_order() -> None:
    """Gemini leaves ids out (wire-formats.md section 5)."""
    found = spans([exchange(1, ToolCall("", "ls"), ToolCall("", "cat")), exchange(2, results=[result("", name="cat")])])
    assert [("ls", None), ("cat", 20.0)] == [(span.name, span.ended_at) for span in found]


def test_the_same_call_with_the_same_result_is_repeated() -> None:
    """Name, arguments and result: paging has new results and is none."""
    steps = [(7, 1), (7, 2), (7, 1), (8, 1)]
    run = []
    for number, (arguments, _) in enumerate(steps):
        before = [result(f"i{number - 1}", steps[number - 1][1])] if number else []
        run.append(exchange(number, ToolCall(f"i{number}", "scroll", digest=arguments), results=before))
    run.append(exchange(9, results=[result("i3", 1)]))
    assert [False, False, True, False] == [span.repeated for span in spans(run)]


def test_calls_at_one_instant_keep_their_order() -> None:
    """A clock that stands still must not turn results and calls around."""
    run = [exchange(1, ToolCall("a", "ls"), at=0.0), exchange(2, ToolCall("a", "cat"), results=[result("a")], at=0.0)]
    for one in run:
        one.ended_at = 0.0
    assert [("ls", 0), ("cat", None)] == [(span.name, span.duration_ms) for span in spans(run)]


def test_fresh_results_stand_behind_the_last_answer() -> None:
    """Older ones were seen before; without any answer, or before a prefilled one, all that came is new."""

    def call(answers: tuple[int, ...], length: int) -> Call:
        results = tuple(Result(f"p{at}", None, False, 0, 0, at) for at in (2, 4, 5))
        line = Lineage(chain=tuple(range(length)), answers=answers)
        return Call("openai-chat", Provider("o", "o", "https://o", ()), "metered", lineage=line, results=results)

    assert ["p4", "p5"] == [one.tool_call_id for one in fresh(call((1, 3), 6))]
    assert ["p2", "p4", "p5"] == [one.tool_call_id for one in fresh(call((), 6))]
    assert ["p4", "p5"] == [one.tool_call_id for one in fresh(call((1, 3, 6), 7))]
