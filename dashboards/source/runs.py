"""All runs as the gateway lists them, and how runs are spread: cost, steps, duration. A row leads to its run."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, choice, labels, sources
from dashboards.source.parts import (
    COUNT,
    SECONDS,
    USD,
    Asking,
    graph,
    over_time,
    rows,
    run_link,
    trace_link,
)

WHICH = (
    ("latest", "sort=-last_at"),
    ("dearest", "sort=-spent_usd"),
    ("live and dear", "state=active&sort=-spent_usd"),
    ("paused", "state=paused&sort=-last_at"),
    ("killed", "state=killed&sort=-last_at"),
    ("ended", "state=ended&sort=-last_at"),
)
COLUMNS = [
    ("run_id", "run", "string"),
    ("agent", "agent", "string"),
    ("user", "user", "string"),
    ("state", "state", "string"),
    ("outcome", "outcome", "string"),
    ("reason", "reason", "string"),
    ("spent_usd", "spent", "number"),
    ("held_usd", "held", "number"),
    ("limits.usd", "limit", "number"),
    ("calls", "calls", "number"),
    ("tool_calls", "tools", "number"),
    ("errors", "errors", "number"),
    ("input_tokens", "input tokens", "number"),
    ("output_tokens", "output tokens", "number"),
    ("started_at", "started", "timestamp"),
    ("last_at", "last call", "timestamp"),
]


def build() -> Board:
    """Runs."""
    board = Board("meterbox-runs", "Runs", "Every run the gateway knows. Click one for its calls and its traces.", 24)
    board.asks(*sources(api=True), choice("which", "Show", WHICH), *labels("agent"))
    money = {"unit": USD, "decimals": 4}
    board.show(
        rows(
            "Which runs?",
            "Straight from the ledger, at most 1,000, descendants' money included; the list above chooses which, the "
            "funnel of a column narrows down. Click a run for its calls, or go to its traces.",
            [Asking("/api/runs?limit=1000&${which}", COLUMNS, "items", "A")],
            columns={
                "run": {"links": [run_link("${__value.text}"), trace_link("${__value.text}")], "custom.width": 240},
                "spent": money,
                "held": money,
                "limit": money,
            },
            size=(24, 14),
        )
    )
    board.row("How are runs spread?")
    for title, metric, unit, says in (
        (
            "What does a run cost?",
            "meterbox_run_cost_usd",
            USD,
            "Median and 95th percentile by agent of the runs that ended in the hour before. Dots are runs: click one "
            "for its trace. A 95th percentile far above the median is a few runaways, not a dear agent.",
        ),
        (
            "How many steps does a run take?",
            "meterbox_run_steps",
            COUNT,
            "Calls per run (R-107). Many steps are a confused agent: compare with a week ago before you raise a limit.",
        ),
        (
            "How long does a run take?",
            "meterbox_run_duration_seconds",
            SECONDS,
            "From the first call to the end (R-111); an abandoned run ends when it was idle for ten minutes.",
        ),
    ):
        board.show(
            graph(
                title,
                says,
                [
                    over_time(
                        ask.quantile(0.5, metric, ask.ENDED, "1h", "agent"),
                        "{{agent}}, half below",
                        "A",
                        exemplars=True,
                    ),
                    over_time(ask.quantile(0.95, metric, ask.ENDED, "1h", "agent"), "{{agent}}, 95 % below", "B"),
                ],
                unit,
            )
        )
    board.show(
        graph(
            "How do runs end?",
            "Runs that ended within an hour, by outcome. `stopped_by_limit` and `killed` are limits and people at "
            "work; `abandoned` is an agent that stopped calling without saying so.",
            [over_time(ask.total("meterbox_runs_finished_total", ask.AGENTS, "1h", "outcome"), "{{outcome}}")],
            COUNT,
            stacked=True,
        )
    )
    return board
