"""The comparison: every call on one line, differences to the nano-dollar, and what explains them."""

from typing import Any

import pytest

from gateway.cli.diff import compare, drawn, explain, item_of
from gateway.cli.report import read_report
from gateway.core.types import Attempt, Exchange, Usage

NOON = 1_790_596_800.0  # 2026-09-28T12:00:00Z
HEAD = "date,model,requests,input_tokens,input_cached_tokens,output_tokens,cost_usd\n"


def call(cost: int | None = 1_000, model: str | None = "gpt-4o", source: str = "price_list", **more: Any) -> Exchange:
    """A call of 100 tokens in, 40 of them cached, and 10 out."""
    known: dict[str, Any] = {
        "call_id": "c", "run": "r", "step": 1, "dialect": "openai-chat", "provider": "openai", "operation": "chat",
        "request_model": "gpt-4o", "stream": False, "started_at": NOON, "response_model": model,
        "usage": Usage(100, 10, 40), "attempts": [Attempt("openai", "gpt-4o", 200, "ok", cost)],
    }  # fmt: skip
    return Exchange(cost_nusd=cost, cost_source=source, **{**known, **more})  # type: ignore[arg-type]


def rows(lines: str, *calls: Exchange) -> list[Any]:
    """Compared with a report of these lines."""
    return compare(read_report(HEAD + lines), calls)


def test_equal_sums_agree() -> None:
    """Tokens and cost, to the nano-dollar; nothing needs an explanation."""
    (row,) = rows("2026-09-28,gpt-4o,2,200,80,20,0.000002", call(), call())
    assert (True, 0, []) == (row.agrees, row.difference_nusd, explain(row))


@pytest.mark.parametrize(
    ("line", "difference", "agrees"),
    [
        ("2,200,80,20,0.000002003", 3, False),  # two calls: two nano-dollars of rounding
        ("2,200,80,20,0.000002002", 2, True),
        ("2,200,80,20,0.00000199", -10, False),
        ("2,201,80,20,0.000002", 0, False),
        ("2,200,81,20,0.000002", 0, False),
        ("2,200,80,19,0.000002", 0, False),
        ("2,200,,20,0.000002", 0, True),  # what isn't stated is no difference
        (",,,,0.000002", 0, True),
    ],
)
def test_a_difference_beyond_rounding_is_one(line: str, difference: int, agrees: bool) -> None:
    """In cost, or in any kind of tokens that the report states."""
    (row,) = rows(f"2026-09-28,gpt-4o,{line}\n2026-09-27,gpt-4o,0,0,0,0,0.000000001", call(), call())[1:]
    assert (difference, agrees) == (row.difference_nusd, row.agrees)


def test_cents_hide_half_a_cent_a_row() -> None:
    """A report in cents can't be compared to the nano-dollar, and the tolerance says how far it can."""
    text = "usage_date_utc,model,token_type,cost_usd\n2026-09-28,gpt-4o,input,0.01\n2026-09-28,gpt-4o,output,0.02\n"
    (near,) = compare(read_report(text), [call(39_000_000, usage=None)])
    (far,) = compare(read_report(text), [call(41_000_000, usage=None)])
    assert (True, 10_000_001, False) == (near.agrees, near.tolerance_nusd, far.agrees)


def test_every_call_counts_on_one_line() -> None:
    """By the UTC day it began on and the model that answered; what the report doesn't have keeps its own line."""
    found = rows(
        "2026-09-28,gpt-4o-2024-08-06,,,,,0.1\n2026-09-28,gpt-4o-mini,,,,,0.1\n2026-09-30,gpt-4o-2024-08-06,,,,,0.1",
        call(1), call(2, "gpt-4o-2024-08-06"), call(4, None), call(8, "gpt-4o-mini-2024-07-18"),
        call(16, started_at=NOON + 43_200), call(32, "o3"), call(64, started_at=NOON - 86_400),
        call(128, started_at=NOON + 3 * 86_400),
    )  # fmt: skip
    assert [
        ("2026-09-28", "gpt-4o-2024-08-06", 7), ("2026-09-28", "gpt-4o-mini", 8), ("2026-09-28", "o3", 32),
        ("2026-09-29", "gpt-4o-2024-08-06", 16), ("2026-09-30", "gpt-4o-2024-08-06", 0),
    ] == [(row.day, row.model, row.ours_nusd) for row in found]  # fmt: skip


def test_two_versions_of_a_model_are_not_mixed() -> None:
    """The date of the answering model decides where the report has several."""
    lines = "2026-09-28,gpt-4o-2024-05-13,,,,,0.1\n2026-09-28,gpt-4o-2024-08-06,,,,,0.1"
    found = rows(lines, call(1, "gpt-4o-2024-05-13"), call(2, "gpt-4o-2024-08-06"), call(4, "gpt-4o"))
    assert [1, 2] == [row.ours_nusd for row in found if row.model != "gpt-4o"]


def test_a_sum_over_all_models_takes_every_call() -> None:
    """As the cost export is where it was not grouped."""
    text = "date,amount_value,line_item\n2026-09-28,0.000003,\n"
    (row,) = compare(read_report(text), [call(1_000), call(2_000, "o3")])
    assert (3_000, True) == (row.ours_nusd, row.agrees)


def test_tokens_alone_are_compared_where_no_cost_is_stated() -> None:
    """Money is then no difference, and a model that the report lacks was not billed any token."""
    text = "date,model,input_tokens,output_tokens\n2026-09-28,gpt-4o,100,10\n"
    found = compare(read_report(text), [call(), call(5, "o3")])
    assert [("gpt-4o", None, True), ("o3", None, False)] == [(r.model, r.difference_nusd, r.agrees) for r in found]


@pytest.mark.parametrize(
    ("line", "calls", "says"),
    [
        ("9,900,0,9,0.1", [], "the gateway saw no call of this model on this day"),
        (
            "1,100,40,10,0.1",
            [call(2_000, source="presumed")],
            "1 call of unknown outcome, charged at the most that it can",
        ),
        ("1,100,40,10,0.1", [call(3, source="estimate")], "1 call charged by an estimate"),
        ("1,100,40,10,0.1", [call(None, source="unknown_model")], "1 call of a model without a known price"),
        ("1,100,40,10,0.1", [call(None, source="no_usage", usage=None)], "whose answer told no usage"),
        ("7,700,40,10,0.1", [call()], "the provider counts 7 requests, the gateway 1: calls went past the gateway"),
        ("1,200,80,20,0.1", [call(), call()], "the provider counts 1 request, the gateway 2: some were not billed"),
        ("1,100,40,10,0.1", [call()], "the tokens agree: the price differs"),
        (",150,40,10,0.1", [call()], "the provider counted other tokens"),
        (",,,,0.1", [call()], "the report states no tokens that could tell"),
    ],
)
def test_a_difference_is_explained(line: str, calls: list[Exchange], says: str) -> None:
    """By what the ledger knows of its own figures, and by what only the provider saw."""
    (row,) = rows(f"2026-09-28,gpt-4o,{line}", *calls)
    assert any(says in text for text in explain(row)), explain(row)


def test_what_the_report_lacks_is_explained() -> None:
    """A model, or a day between two of the report."""
    found = rows("2026-09-28,o3,,,,,0", call())
    assert "the report has no line of it" in explain(found[0])[0]


def test_the_table_fits_and_the_data_is_exact() -> None:
    """Differences with their sign, explanations below; amounts by source as data."""
    found = rows(
        "2026-09-28,gpt-4o,3,290,80,20,0.5\n2026-09-28,o\x1b3,1,1,1,1,0.5",
        call(),
        call(7, source="presumed", usage=None),
    )
    page = drawn(found)
    assert "\x1b" not in page and "+$0.499999" in page and "+190" in page and "of unknown outcome" in page
    assert 100 >= max(len(line) for line in page.split("\n") if not line.startswith("    "))
    item = item_of(found[0])
    assert {"price_list": "0.000001", "presumed": "0.000000007"} == item["ledger"]["cost_by_source"]
    assert ("0.5", "0.499998993", False) == (item["report"]["cost_usd"], item["difference_usd"], item["agrees"])
