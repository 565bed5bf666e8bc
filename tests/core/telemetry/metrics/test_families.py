"""The table of metrics: bounded, and described."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.core.telemetry.metrics import families, folding

DOCS = Path(__file__).resolve().parents[4] / "docs" / "metrics.md"
NEVER = {"run", "run_id", "call", "call_id", "user", "session", "trace", "trace_id", "path", "prompt", "error"}


def test_all_families_at_their_fullest_stay_below_the_limit_of_lines():
    """2,000 lines, comments and end included (contract 6.3)."""
    heads = sum(family.head for family in families.ALL) + 1
    counters = sum(family.most for family in families.FOLDED if family.kind == "counter")
    told = sum(family.most for family in families.TOLD)
    assert counters <= families.COUNTER_LINES
    assert told <= families.TOLD_LINES
    assert heads + families.COUNTER_LINES + families.HISTOGRAM_LINES + families.TOLD_LINES <= families.LINES_MOST
    spare = sum(family.spare * family.lines for family in families.FOLDED if family.kind == "histogram")
    assert spare <= families.HISTOGRAM_LINES // 2, "what is kept for `other` leaves room for names"
    sure = sum(family.lines * families.SURE.get(family.name, 0) for family in families.FOLDED)
    assert spare + sure <= families.HISTOGRAM_LINES
    for family in families.FOLDED:
        assert families.SURE.get(family.name, 0) <= family.most - family.spare, family.name


def test_no_label_is_one_of_a_run_or_a_person():
    """Contract 6.3."""
    names = {label.name for family in families.ALL for label in family.labels}
    assert set() == names & NEVER


def test_names_end_in_their_unit_and_are_there_once():
    """OpenMetrics asks for it."""
    assert len({family.name for family in families.ALL}) == len(families.ALL)
    for family in families.ALL:
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert not family.name.endswith("_total")
        assert list(family.buckets) == sorted(family.buckets)


def test_closed_labels_have_no_more_words_than_spare_series():
    """Each has its series, whatever else is full."""
    assert families.REQUESTS.spare >= len(folding.OUTCOMES) + 1
    assert families.FINISHED.spare >= len(folding.RUN_OUTCOMES) + 1
    assert families.TOKENS_USED.spare >= len(folding.TYPES)
    assert families.LEDGER_EVENTS.spare >= len(folding.EVENTS)
    assert families.DENIED.spare >= len(folding.SCOPES) + 1
    assert families.ATTEMPTS.spare >= len(folding.RESULTS) + 1


def test_docs_and_code_name_the_same_metrics_and_labels():
    """Each family has a row in docs/metrics.md with its labels and its kind; each row has a family."""
    rows = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        found = re.match(r"\| `((?:meterbox|gen_ai)_[A-Za-z_]+)` \| (\w+)[^|]* \| ([^|]*) \|", line)
        if found:
            rows[found[1]] = (found[2], set(re.findall(r"`(\w+)`", found[3])))
    expected = {}
    for family in families.ALL:
        suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
        expected[family.name + suffix] = (family.kind, {label.name for label in family.labels})
    assert expected == rows
