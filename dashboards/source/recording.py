"""Recording rules: the figures that alerts compare, each asked as the pages ask it.

Invariant: an alert names only what is recorded here or a gauge of the gateway, so that its page shows the same figure.
What never enters: a threshold (rules/alerts.yaml).
"""

from __future__ import annotations

from typing import Final

from dashboards.source import ask

HEAD: Final = (
    "# Made by `make dashboards` from dashboards/source/recording.py. What alerts compare; the pages ask the same.\n"
)
FAILED: Final = 'outcome=~"upstream_error|unknown"'
SENT: Final = 'outcome!="refused"'
REQUESTS: Final = "meterbox_requests_total"
FIRST: Final = "gen_ai_server_time_to_first_token_seconds"
ESTIMATED: Final = "meterbox_usage_estimated_total"
_BUDGET: Final = "by (budget, period)"


def _lasts() -> str:
    left = f"(max {_BUDGET} (meterbox_budget_limit_usd) - max {_BUDGET} (meterbox_budget_spent_usd)) > 0"
    return f"({left}) / (max {_BUDGET} (deriv(meterbox_budget_spent_usd[15m])) > 0)"


RULES: Final = (
    ("meterbox:spent_usd:5m", "Dollars of five minutes", ask.spent("5m", "key, agent, model", "")),
    ("meterbox:spent_usd:1h", "Dollars of an hour", ask.spent("1h", "key, agent, model", "")),
    ("meterbox:calls:5m", "Calls that were sent", ask.total(REQUESTS, SENT, "5m", "provider")),
    (
        "meterbox:failing:ratio_5m",
        "Calls that failed at the provider, in proportion to those sent",
        ask.share(
            ask.total(REQUESTS, FAILED, "5m", "provider"),
            ask.total(REQUESTS, SENT, "5m", "provider"),
        ),
    ),
    ("meterbox:denied:5m", "Refused calls", ask.total("meterbox_budget_denied_total", "", "5m", "scope, reason")),
    ("meterbox:cut:1h", "Answers that the gateway ended", ask.total("meterbox_stream_cut_total", "", "1h", "reason")),
    (
        "meterbox:first_token_seconds:p95_5m",
        "Time to the first token",
        ask.quantile(0.95, FIRST, "", "5m", "gen_ai_provider_name"),
    ),
    (
        "meterbox:overhead_seconds:p99_5m",
        "What the gateway adds to a call",
        ask.quantile(0.99, "meterbox_overhead_seconds", 'phase="total"', "5m"),
    ),
    (
        "meterbox:budget_used:ratio",
        "Spent in proportion to the limit",
        f"max {_BUDGET} (meterbox_budget_spent_usd) / (max {_BUDGET} (meterbox_budget_limit_usd) > 0)",
    ),
    ("meterbox:budget_lasts:seconds", "Until it is used up, at the pace of fifteen minutes", _lasts()),
    ("meterbox:overrun_usd:1h", "Dollars beyond their hold", ask.total("meterbox_overrun_usd_total", "", "1h")),
    (
        "meterbox:price_missing:1h",
        "Calls without a price",
        ask.total("meterbox_price_missing_total", "", "1h", "provider, model"),
    ),
    (
        "meterbox:estimated:ratio_1h",
        "Calls charged at a bound, in proportion to those sent",
        ask.share(ask.total(ESTIMATED, "", "1h", "provider"), ask.total(REQUESTS, SENT, "1h", "provider")),
    ),
    (
        "meterbox:completed:ratio_6h",
        "Runs that reached their goal, in proportion to those that ended",
        ask.share(
            ask.total("meterbox_runs_finished_total", 'outcome="completed"', "6h", "agent"),
            ask.total("meterbox_runs_finished_total", "", "6h", "agent"),
        ),
    ),
    (
        "meterbox:agent_failing:ratio_6h",
        "Calls of an agent that failed, in proportion to those sent; pages compare it with a week ago",
        ask.share(
            ask.total(REQUESTS, 'outcome=~"upstream_error|cut|unknown"', "6h", "agent"),
            ask.total(REQUESTS, SENT, "6h", "agent"),
        ),
    ),
    (
        "meterbox:steps_per_run:6h",
        "Calls of a run on average; pages compare it with a week ago",
        ask.share(
            ask.total("meterbox_run_steps_sum", "", "6h", "agent"),
            ask.total("meterbox_run_steps_count", "", "6h", "agent"),
        ),
    ),
    ("meterbox:runs_finished:6h", "Runs that ended", ask.total("meterbox_runs_finished_total", "", "6h", "agent")),
    (
        "meterbox:spans_rejected:15m",
        "Spans that a destination refused",
        ask.total("meterbox_spans_rejected_total", "", "15m", "destination"),
    ),
    (
        "meterbox:entries_lost:1h",
        "Journal entries forgotten before they were read",
        ask.total("meterbox_entries_lost_total", "", "1h", "destination"),
    ),
)


def text() -> str:
    """rules/recording.yaml."""
    lines = [HEAD, "groups:\n", "  - name: meterbox-recorded\n", "    interval: 15s\n", "    rules:\n"]
    for name, says, expression in RULES:
        lines.append(f"      # {says}\n      - record: {name}\n        expr: >-\n          {expression}\n")
    return "".join(lines)
