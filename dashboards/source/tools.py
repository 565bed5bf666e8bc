"""Tools and agents: which tools are used, fail and are slow; how agents fare and how well they use the cache."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, choice, labels, sources
from dashboards.source.parts import (
    COUNT,
    SECONDS,
    SHARE,
    USD,
    at_end,
    bad_from,
    bars,
    good_from,
    graph,
    over_time,
    rows,
    runs_link,
)

TOOL = "gen_ai_execute_tool_duration_seconds"
BY_AGENT = 'gen_ai_agent_name=~"$agent|other"'
NAME = "gen_ai_tool_name"
USES = ask.total(f"{TOOL}_count", BY_AGENT, by=NAME)
ERRORS = ask.total(f"{TOOL}_count", BY_AGENT + ',error_type!=""', by=NAME)
TOKENS = "meterbox_tokens_total"
AGO = (("a week before", "1w"), ("a day before", "1d"), ("four weeks before", "4w"))
REQUESTS = "meterbox_requests_total"


def _cached() -> str:
    read = ask.total(TOKENS, ask.MINE + ',type="cache_read"', "1h", "agent")
    return ask.share(read, ask.total(TOKENS, ask.MINE + ',type="input"', "1h", "agent"))


def build() -> Board:
    """Tools & agents."""
    board = Board(
        "meterbox-tools", "Tools & agents", "What agents do with their money: tools, steps, cache, outcomes.", 24
    )
    board.asks(*sources(), *labels("agent", "provider", "model"), choice("ago", "Compared with", AGO))
    board.row("Which tools?")
    board.show(
        bars(
            "Which tools are used most?",
            "Tool calls within the range shown (R-108). One tool that towers over the rest is a loop or a missing one.",
            at_end(f"sort_desc({ask.most(15, USES)})", f"{{{{{NAME}}}}}"),
            COUNT,
        ),
        bars(
            "Which tools fail?",
            "Results that tell of an error, in proportion to all results of the tool. Above 10 %: the agent pays for "
            "reading the error and for trying again.",
            at_end(f"sort_desc({ask.share(ERRORS, USES)})", f"{{{{{NAME}}}}}"),
            SHARE,
            bad_from(0.1, 0.3),
        ),
        graph(
            "Which tools are slow?",
            "95th percentile by tool over an hour, from the answer that asked to the request with the result: the "
            "agent's own time is in it. Dots are calls: click one for its trace.",
            [over_time(ask.quantile(0.95, TOOL, BY_AGENT, "1h", NAME), f"{{{{{NAME}}}}}", exemplars=True)],
            SECONDS,
        ),
        graph(
            "When were they used?",
            "Tool calls in five minutes, by tool.",
            [over_time(ask.most(10, ask.total(f"{TOOL}_count", BY_AGENT, ask.NEAR, NAME)), f"{{{{{NAME}}}}}")],
            COUNT,
            stacked=True,
        ),
    )
    board.row("How do agents fare?")
    board.show(_agents())
    board.show(
        graph(
            "How long do agents work at a task?",
            "95th percentile of a run's duration by agent, of the runs that ended in the hour before (R-111).",
            [
                over_time(
                    ask.quantile(0.95, "gen_ai_invoke_agent_duration_seconds", BY_AGENT, "1h", "gen_ai_agent_name"),
                    "{{gen_ai_agent_name}}",
                    exemplars=True,
                )
            ],
            SECONDS,
        ),
        graph(
            "How much is read from the cache?",
            "Cached input tokens in proportion to all input tokens of an hour, by agent (R-055). A fall: the front of "
            "the prompt changes: every call then pays the whole context again.",
            [over_time(_cached(), "{{agent}}")],
            SHARE,
        ),
        graph(
            "How many tokens?",
            "Tokens in five minutes by kind. Cached and reasoning tokens are parts of input and output.",
            [over_time(ask.total(TOKENS, ask.MINE, ask.NEAR, "type"), "{{type}}")],
            COUNT,
        ),
        graph(
            "How often do calls fail, by agent?",
            "Upstream errors, cuts and unknown outcomes in proportion to the calls that were sent in an hour (R-112).",
            [over_time(_failing(), "{{agent}}")],
            SHARE,
            steps=bad_from(0.02, 0.05),
        ),
        *_compared(),
    )
    return board


def _compared() -> list[object]:
    """Now beside then (R-112): recorded figures, since what is recorded can be asked for at any instant."""
    graphs: list[object] = []
    for title, metric, unit, says in (
        (
            "Do calls fail more often than before?",
            "meterbox:agent_failing:ratio_6h",
            SHARE,
            "Failed calls of six hours in proportion to those sent, beside the same hours of the week before. ",
        ),
        (
            "Do runs take more steps than before?",
            "meterbox:steps_per_run:6h",
            COUNT,
            "Calls per run that ended within six hours, beside the week before. More steps for the same task: a "
            "prompt, a model or a tool has changed. ",
        ),
    ):
        now = f"{metric}{{{ask.ENDED}}}"
        queries = [over_time(now, "{{agent}}"), over_time(f"{now} offset $ago", "{{agent}}, then", "B")]
        graphs.append(graph(title, says + "Needs dashboards/rules in Prometheus.", queries, unit))
    return graphs


def _failing() -> str:
    failed = ask.total(REQUESTS, ask.MINE + ',outcome=~"upstream_error|cut|unknown"', "1h", "agent")
    return ask.share(failed, ask.total(REQUESTS, ask.MINE + ',outcome!="refused"', "1h", "agent"))


def _agents() -> object:
    finished = "meterbox_runs_finished_total"
    done = ask.total(finished, ask.AGENTS, by="agent")
    asked = {
        "A": ask.spent(by="agent"),
        "B": done,
        "C": ask.share(ask.total(finished, ask.AGENTS + ',outcome="completed"', by="agent"), done),
        "D": ask.share(ask.total("meterbox_run_steps_sum", ask.ENDED, by="agent"), _runs("meterbox_run_steps_count")),
        "E": ask.share(
            ask.total("meterbox_run_cost_usd_sum", ask.ENDED, by="agent"), _runs("meterbox_run_cost_usd_count")
        ),
    }
    shown = ("spent", "runs ended", "completed", "steps per run", "cost per run")
    return rows(
        "What does each agent cost, and does it get there?",
        "Within the range shown. Cost per run times how often it must be tried is what a result costs: a cheap agent "
        "that completes half of its runs is not cheap. Click an agent for its runs.",
        [at_end(expression, ref=ref, rows=True) for ref, expression in asked.items()],
        columns={
            "agent": {"links": [runs_link("${__value.text:percentencode}")]},
            "spent": {"unit": USD, "decimals": 4},
            "completed": {"unit": SHARE, "thresholds": _steps(), "custom.cellOptions": {"type": "color-text"}},
            "cost per run": {"unit": USD, "decimals": 4},
            "steps per run": {"decimals": 1},
        },
        renamed={f"Value #{ref}": name for ref, name in zip(asked, shown, strict=True)},
        size=(24, 8),
    )


def _runs(metric: str) -> str:
    return ask.total(metric, ask.ENDED, by="agent")


def _steps() -> dict[str, object]:
    return {"mode": "absolute", "steps": [{"value": at, "color": color} for at, color in good_from(0.8, 0.95)]}
