"""The first page: what is being spent, by whom, and is something wrong that a person should see now."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, labels, sources
from dashboards.source.parts import (
    COUNT,
    SHARE,
    USD,
    Asking,
    at_end,
    bad_from,
    coloured,
    figure,
    good_from,
    graph,
    over_time,
    rows,
    run_link,
    runs_link,
    trace_link,
)

REQUESTS = "meterbox_requests_total"
SENT = ask.MINE + ',outcome!="refused"'
FAILED = ask.MINE + ',outcome=~"upstream_error|cut|unknown"'
FAILURES = ask.share(ask.total(REQUESTS, FAILED), ask.total(REQUESTS, SENT))
FINISHED = "meterbox_runs_finished_total"
COMPLETED = ask.share(
    ask.total(FINISHED, ask.AGENTS + ',outcome="completed"', "1h", "agent"),
    ask.total(FINISHED, ask.AGENTS, "1h", "agent"),
)


def build() -> Board:
    """Overview."""
    board = Board("meterbox-overview", "Overview", "What is spent, by whom, and what is wrong. Start here.")
    board.asks(*sources(api=True), *labels("agent", "provider", "model"))
    board.show(*_figures())
    board.show(
        graph(
            "Who is spending?",
            "Dollars per hour by agent, from the last five minutes; the height of the stack is the total. "
            "One colour that swells is a runaway: click it in the table below, then kill its run.",
            [over_time(ask.most(10, ask.pace("agent")), "{{agent}}")],
            USD,
            stacked=True,
        ),
        graph(
            "On which models?",
            "Dollars per hour by model. A dear model that appears where a cheap one was meant shows here first.",
            [over_time(ask.most(10, ask.pace("provider, model")), "{{model}} ({{provider}})")],
            USD,
            stacked=True,
        ),
    )
    board.row("Who, and which run?")
    board.show(_spenders(), _dearest())
    board.row("Is it well?")
    board.show(
        graph(
            "Do runs reach their goal?",
            "Completed runs in proportion to all that ended within an hour, by agent (R-026, R-110). A fall "
            "without an error is an agent that gives up: look at what its last runs did.",
            [over_time(COMPLETED, "{{agent}}")],
            SHARE,
            steps=good_from(0.8, 0.95),
        ),
        graph(
            "How do calls end?",
            "Calls per outcome in five minutes. `refused` is a limit at work, `upstream_error` the provider, `cut` "
            "an answer that passed its grant, `client_left` an agent that hung up, `unknown` money at its bound.",
            [over_time(ask.total(REQUESTS, ask.MINE, ask.NEAR, "outcome"), "{{outcome}}")],
            COUNT,
            stacked=True,
        ),
    )
    board.row("What was told?")
    board.show(_alerts(), _firing())
    return board


def _figures() -> list[object]:
    denied = ask.zero(ask.total("meterbox_budget_denied_total"))
    return [
        figure(
            "What was spent?",
            "Charged by the ledger within the range shown, to the nano-dollar. Corrections are in it.",
            at_end(ask.zero(ask.spent())),
            USD,
        ),
        figure(
            "How fast is it going?",
            "Dollars per hour, from the last five minutes. Above what is usual: see who is spending, then "
            "`meterbox kill R`, or `meterbox kill --agent NAME` to stop a whole agent.",
            at_end(ask.zero(ask.pace())),
            USD,
            bad_from(10, 50),
        ),
        figure(
            "What would a month cost?",
            "The last hour, times 730. A pace, not a forecast: nights and week-ends are cheaper.",
            at_end(ask.zero(f"{ask.spent('1h')} * 730")),
            USD,
        ),
        figure(
            "How many calls fail?",
            "Upstream errors, cuts and unknown outcomes, in proportion to the calls that were sent. Above 5 %: open "
            "Providers and see whether it is one of them.",
            at_end(ask.zero(FAILURES)),
            SHARE,
            bad_from(0.02, 0.05),
        ),
        figure(
            "How many runs are live?",
            "Runs with a call in the last ten minutes that nobody ended.",
            at_end(f"sum(meterbox_runs_active{{{ask.AGENTS}}})"),
            COUNT,
        ),
        figure(
            "How many calls were refused?",
            "By a limit, within the range shown; Budgets says by which. A refusal costs nothing and stops the caller.",
            at_end(denied),
            COUNT,
            bad_from(1, 100),
        ),
    ]


def _spenders() -> object:
    spent = {"unit": USD, "decimals": 4, "custom.width": 130, **coloured(((None, "text"), (10, "yellow"), (50, "red")))}
    return rows(
        "Who spent the most?",
        "By agent, key and model, within the range shown. Click an agent for its runs.",
        [at_end(ask.most(20, ask.spent(by="agent, key, model")), rows=True)],
        columns={"spent": spent, "agent": {"links": [runs_link("${__value.text:percentencode}")]}},
        renamed={"Value": "spent"},
        size=(12, 9),
    )


def _dearest() -> object:
    columns = [
        ("run_id", "run", "string"),
        ("agent", "agent", "string"),
        ("spent_usd", "spent", "number"),
        ("held_usd", "held", "number"),
        ("calls", "calls", "number"),
        ("last_at", "last call", "timestamp"),
    ]
    return rows(
        "Which live runs are the dearest?",
        "From the gateway's own API at this moment, descendants included; filters above do not apply. A run that is "
        "dear and still moving: open it, then decide.",
        [Asking("/api/runs?state=active&sort=-spent_usd&limit=20", columns, "items", "A")],
        columns={
            "run": {"links": [run_link("${__value.text}"), trace_link("${__value.text}")], "custom.width": 220},
            "spent": {"unit": USD, "decimals": 4},
            "held": {"unit": USD, "decimals": 4},
        },
        size=(12, 9),
    )


def _alerts() -> object:
    columns = [
        ("last_at", "at", "timestamp"),
        ("state", "state", "string"),
        ("labels.severity", "severity", "string"),
        ("labels.alertname", "alert", "string"),
        ("annotations.summary", "what", "string"),
        ("annotations.stop", "stop", "string"),
        ("annotations.mute", "mute", "string"),
        ("labels.run_id", "run", "string"),
    ]
    return rows(
        "What has the gateway alerted about?",
        "Its own alerts, the latest first; `stop` and `mute` are commands to paste. The rules of Prometheus are apart.",
        [Asking("/api/alerts?limit=100", columns, "items", "A")],
        columns={"run": {"links": [run_link("${__value.text}")]}, "what": {"custom.width": 520}},
        size=(16, 8),
    )


def _firing() -> object:
    firing = 'max by (severity, alertname, agent, budget, provider, destination) (ALERTS{alertstate="firing",%s})'
    return rows(
        "Which rules fire?",
        "Of the rules in Prometheus, if it has them (dashboards/rules): each has a page in docs/runbooks. None: all is "
        "well, or nobody evaluates them; Telemetry health says whether figures come in.",
        [at_end(firing % 'alertname=~"Meterbox.*"', rows=True)],
        columns={
            "alertname": {"custom.width": 230},
            "severity": {"custom.width": 90},
            "since": {"custom.hidden": True},
        },
        renamed={"Value": "since"},
        size=(8, 8),
    )
