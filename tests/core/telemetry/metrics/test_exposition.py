"""OpenMetrics text: read by prometheus-client's strict parser, exact to the last digit."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.utils import floatToGoString

from gateway.core.telemetry.metrics import exposition, families
from gateway.core.telemetry.metrics.exposition import Page, decimal, spelled
from gateway.core.telemetry.metrics.families import COST, RUN_COST, Family
from gateway.core.telemetry.metrics.series import Board, Exemplar
from tests.core.telemetry.metrics.metering import Life, folded, read, samples, text_of

AT = 1_800_000_000.0


async def test_the_text_says_what_prometheus_clients_own_would_say():
    """Parsed, written by prometheus-client, and parsed again: nothing differs, exemplars included."""
    text = text_of(folded(await Life(7).live(300)))
    once = read(text)

    class Collector:
        def collect(self):
            return once.values()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    again = read(generate_latest(registry).decode())
    assert len(once) > 20
    assert {name: (f.type, f.unit, f.samples) for name, f in once.items()} == {
        name: (f.type, f.unit, f.samples) for name, f in again.items()
    }
    assert any(sample.exemplar for family in once.values() for sample in family.samples)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "0.000000001"), (10**9, "1"), (12 * 10**17 + 10, "1200000000.00000001"), (-1_500_000_000, "-1.5")],
)
def test_amounts_are_exact_decimals(value, text):
    """No float comes near: 1.2 billion dollars and a hundredth of a millionth."""
    assert text == decimal(value, 10**9)
    assert str(value) == decimal(value, 1)


def test_bounds_are_spelled_as_prometheus_client_and_go_spell_them():
    """`le` is compared as text by older Prometheus."""
    for family in families.ALL:
        for bound in family.buckets:
            assert floatToGoString(bound) == spelled(bound)


def test_labels_are_escaped_and_empty_ones_left_out():
    """An agent may be called anything that can be printed."""
    board = Board()
    name = 'we"ird\\na\\me {}=,#'
    board.add(COST, ("none", name, "openai", "gpt-4o"), 5)
    board.observe(families.AGENT_DURATION, ("", ""), 5)
    text = Page().render(board, {})
    assert [5e-9] == samples(text, "meterbox_cost_usd_total", agent=name)
    assert {} == read(text)["gen_ai_invoke_agent_duration_seconds"].samples[-1].labels


def test_what_nothing_is_known_of_is_left_out_whole():
    """No head without a sample."""
    assert "# EOF\n" == Page().render(Board(), {COST.name: []})


def test_what_is_told_at_a_rendering_is_bounded():
    """However many rows come in."""
    rows = [((f"b{number}", "day"), number) for number in range(100)]
    text = Page().render(Board(), {families.BUDGET_SPENT.name: rows})
    assert families.BUDGET_SPENT.most == len(samples(text, "meterbox_budget_spent_usd"))


def test_lines_follow_every_change():
    """Lines that are remembered are made anew when their series moved, also by nothing."""
    board, page = Board(), Page()

    def seen() -> list[float]:
        return samples(page.render(board, {}), "meterbox_run_cost_usd_count")

    for count in (1, 2, 3):
        board.observe(RUN_COST, ("a", "failed"), 0, Exemplar("f" * 32, "r", 0, AT))
        assert [count] == seen() == seen()


def test_buckets_add_up_and_carry_their_exemplars():
    """Each bucket has its latest."""
    board = Board()
    for run, amount in (("r1", 5_000_000), ("r2", 6_000_000), ("r3", 999 * 10**9)):
        board.observe(RUN_COST, ("a", "failed"), amount, Exemplar("f" * 32, run, amount, AT))
    found = read(Page().render(board, {}))["meterbox_run_cost_usd"].samples
    buckets = {sample.labels["le"]: sample for sample in found if sample.name.endswith("_bucket")}
    assert (0, 2, 2, 3) == tuple(buckets[bound].value for bound in ("0.0025", "0.006", "100.0", "+Inf"))
    exemplar = buckets["0.006"].exemplar
    assert exemplar is not None
    assert ({"run_id": "r2", "trace_id": "f" * 32}, 0.006, AT) == (
        exemplar.labels,
        exemplar.value,
        float(exemplar.timestamp or 0),
    )
    assert buckets["0.015"].exemplar is None


def test_the_type_of_the_answer_names_the_format():
    """Prometheus asks for it, and reads exemplars only then."""
    assert "application/openmetrics-text; version=1.0.0; charset=utf-8" == exposition.CONTENT_TYPE


def test_help_texts_hold_no_line_break():
    """One line of comment each."""
    odd = Family("meterbox_odd", "gauge", 'two\nlines and a "word"')
    assert 2 == exposition.head(odd).count("\n")
