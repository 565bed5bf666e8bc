"""Budgets: how much of each limit is used and promised, when it will be used up, and who was refused by which."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, sources
from dashboards.source.parts import (
    COUNT,
    RED,
    SECONDS,
    SHARE,
    USD,
    YELLOW,
    Asking,
    at_end,
    bad_from,
    bars,
    coloured,
    figure,
    graph,
    over_time,
    rows,
)

LIMIT = "max by (budget, period) (meterbox_budget_limit_usd)"
SPENT = "max by (budget, period) (meterbox_budget_spent_usd)"
HELD = "max by (budget, period) (meterbox_budget_held_usd)"
USED = f"{SPENT} / ({LIMIT} > 0)"
# Spending that stands still never runs out, hence only what grows; a window that begins anew falls and is left out.
# Of a budget with many accounts the gateway shows the fullest. Of runs that is one that met its limit, as it should.
SHARED = '{period!="run"}'
SHARED_USED = USED.replace("_usd", "_usd" + SHARED)
LEFT = f"({LIMIT} - {SPENT}) > 0".replace("_usd", "_usd" + SHARED)
LASTS = f"({LEFT}) / (max by (budget, period) (deriv(meterbox_budget_spent_usd{SHARED}[15m])) > 0)"
DENIED = "meterbox_budget_denied_total"


def build() -> Board:
    """Budgets."""
    board = Board("meterbox-budgets", "Budgets", "What is limited, how much of it is used, and how long it lasts.", 24)
    board.asks(*sources(api=True))
    board.show(
        figure(
            "How full is the fullest?",
            "The shared budget nearest to its limit (those of single runs are left out), held money not counted. At "
            "100 % its calls are refused: see below who used it, then the runbook `budget`.",
            at_end(f"max({SHARED_USED})"),
            SHARE,
            bad_from(0.8, 1),
            size=(6, 4),
        ),
        figure(
            "What is promised now?",
            "Held by calls under way, on the fullest account of each budget: not spent yet.",
            at_end(f"sum({HELD})"),
            USD,
            size=(6, 4),
        ),
        figure(
            "When is the first used up?",
            "Of the shared budgets, at the pace of the last fifteen minutes. No figure: at this pace none is.",
            at_end(f"min({LASTS})"),
            SECONDS,
            ((None, RED), (3600, YELLOW), (14400, "green")),
            size=(6, 4),
        ),
        figure(
            "How many calls were refused?",
            "By a limit, within the range shown.",
            at_end(ask.zero(ask.total(DENIED))),
            COUNT,
            bad_from(1, 100),
            size=(6, 4),
        ),
    )
    board.show(
        bars(
            "How much of each limit is used?",
            "Spent in proportion to the limit in the window that runs now; of a budget with an account for each run, "
            "agent, user or key: the fullest.",
            at_end(f"sort_desc({USED})", "{{budget}} per {{period}}"),
            SHARE,
            bad_from(0.8, 1),
        ),
        graph(
            "How did it fill up?",
            "Spent in proportion to the limit. A straight line is a steady load; a knee is where something began.",
            [over_time(USED, "{{budget}} per {{period}}")],
            SHARE,
            steps=bad_from(0.8, 1),
        ),
    )
    board.show(_gauges(), _accounts())
    board.row("Who was refused?")
    board.show(
        graph(
            "By which limit?",
            "Refused calls in five minutes, by scope and reason. `run` is an agent that meets its own limit; `global` "
            "or `key` refuses callers who did nothing: look there first.",
            [over_time(ask.total(DENIED, "", ask.NEAR, "scope, reason"), "{{scope}}: {{reason}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "How long do calls wait for a grant?",
            "From the order to the grant: calls that only held money stands in the way of wait in line. Long waits "
            "are a budget that is too small for so many calls at once.",
            [
                over_time(ask.quantile(0.5, "meterbox_reserve_seconds"), "half below", "A"),
                over_time(ask.quantile(0.99, "meterbox_reserve_seconds"), "99 % below", "B"),
            ],
            SECONDS,
        ),
    )
    return board


def _gauges() -> object:
    money = {"unit": USD, "decimals": 4}
    return rows(
        "What do the configured budgets say?",
        "One line a budget: the limit, what is spent, what is held for calls under way.",
        [
            at_end(LIMIT, ref="A", rows=True),
            at_end(SPENT, ref="B", rows=True),
            at_end(HELD, ref="C", rows=True),
        ],
        columns={"limit": money, "spent": money, "held": money},
        renamed={"Value #A": "limit", "Value #B": "spent", "Value #C": "held"},
        size=(10, 9),
    )


def _accounts() -> object:
    columns = [
        ("name", "budget", "string"),
        ("account", "account", "string"),
        ("unit", "unit", "string"),
        ("per", "per", "string"),
        ("mode", "mode", "string"),
        ("limit", "limit", "number"),
        ("spent", "spent", "number"),
        ("held", "held", "number"),
        ("exhausted_at", "used up at", "timestamp"),
        ("resets_at", "anew at", "timestamp"),
    ]
    return rows(
        "How long does each account last?",
        "Every account of every budget from the gateway's own API, runs too, in their own units. `used up at`: if all "
        "goes on as it did since the window began.",
        [Asking("/api/budgets?limit=1000", columns, "items", "A")],
        columns={"spent": coloured(((None, "text"),)), "account": {"custom.width": 220}},
        size=(14, 9),
    )
