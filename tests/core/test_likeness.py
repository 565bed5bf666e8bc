"""Claims about what tells runs with equal answers apart."""

from __future__ import annotations

from gateway.core.likeness import MOST, MOST_BODY_BYTES, Latest, Turn, after, asked_alike, said_in, seen_alike
from gateway.core.types import Call, Lineage, Provider, Result, ToolCall
from gateway.core.wire.history import text_hash

PROVIDER = Provider("openai", "openai", "https://api.openai.com", ("openai-chat",))


def result(digest: int, position: int) -> Result:
    return Result("id", None, False, digest, 1, position)


def test_all_strings_of_a_body_count_at_any_depth() -> None:
    """Arguments are a string somewhere, whatever the format; keys are none."""
    said = said_in(b'{"a":[{"b":"deep"},"list"],"c":"top"}')
    assert {text_hash(text) for text in ("deep", "list", "top")} == said


def test_bodies_that_can_not_be_read_say_nothing() -> None:
    """Broken, too deep, too large: no claim, no error."""
    assert set() == said_in(b"{") == said_in(b"[" * 100_000) == said_in(b'"' + b"x" * MOST_BODY_BYTES + b'"')


def test_what_is_remembered_of_a_run_is_bounded() -> None:
    """Newest first, sixteen of each."""
    latest = None
    for step in range(30):
        tools = [ToolCall("id", "t", digest=step)]
        latest = after(Turn(Lineage(), "m", (step,), tools, [result(step, 1)]), latest)
    assert latest == Latest(29, "m", 0, tuple(range(29, 29 - MOST, -1)), tuple(range(29, 29 - MOST, -1)), 1)


def test_results_are_compared_as_far_back_as_both_tell() -> None:
    """New results, behind the last answer, are nobody's yet."""
    latest = Latest(5, "m", 0, (3, 2, 1), (), 0)
    line = Lineage(chain=(1, 2, 3, 4), answers=(2,), last_answer=5)

    def call(*results: Result) -> Call:
        return Call("openai-chat", PROVIDER, "metered", model="m", lineage=line, results=results)

    assert seen_alike(latest, call(result(2, 0), result(3, 1), result(9, 3)))
    assert not seen_alike(latest, call(result(3, 0), result(2, 1)))
    assert seen_alike(latest, call())


def test_a_trimmed_history_need_not_quote_old_arguments() -> None:
    """Those of the latest answer suffice where the history is cut."""
    latest = Latest(5, "m", 0, (), (3, 2, 1), 1)
    assert asked_alike(latest, {3}, whole=False)
    assert not asked_alike(latest, {3}, whole=True)
    assert asked_alike(latest, {1, 2, 3}, whole=True)
