"""One run: its money and limits, call by call, its tools, what is still open, and the commands that stop it."""

from __future__ import annotations

from dashboards.source.board import Board, box, sources
from dashboards.source.parts import (
    COUNT,
    MILLISECONDS,
    RED,
    USD,
    YELLOW,
    Asking,
    coloured,
    figure,
    note,
    rows,
    run_link,
    trace_link,
    word,
)

RUN = "/api/runs/${run}"
CALLS = [
    ("step", "step", "number"),
    ("started_at", "at", "timestamp"),
    ("outcome", "outcome", "string"),
    ("reason", "reason", "string"),
    ("status", "status", "number"),
    ("provider", "provider", "string"),
    ("request_model", "model", "string"),
    ("finish_reason", "finish", "string"),
    ("usage.input_tokens", "input tokens", "number"),
    ("usage.cache_read_tokens", "of them cached", "number"),
    ("usage.output_tokens", "output tokens", "number"),
    ("cost_usd", "cost", "number"),
    ("cost_source", "known from", "string"),
    ("duration_ms", "took", "number"),
    ("ttft_ms", "first token", "number"),
    ("clamped", "clamped to", "number"),
]
TOOLS = [
    ("step", "asked in step", "number"),
    ("name", "tool", "string"),
    ("started_at", "at", "timestamp"),
    ("duration_ms", "took", "number"),
    ("is_error", "failed", "boolean"),
    ("repeated", "repeated", "number"),
]
HELD = [
    ("started_at", "since", "timestamp"),
    ("run_id", "run", "string"),
    ("model", "model", "string"),
    ("held_usd", "held", "number"),
    ("deadline_at", "until at most", "timestamp"),
    ("call_id", "call", "string"),
]
COMMANDS = """
| | |
|---|---|
| What happened, in seven answers | `meterbox runs show ${run}` |
| Stop it and its descendants now | `meterbox kill ${run} --reason "..."` |
| Let it go on after a limit | `meterbox budget ${run} --usd 5.00`, then `meterbox resume ${run}` |
| Be quiet about it | `meterbox alerts list`, then `meterbox alerts mute ID` |
"""


def build() -> Board:
    """Run."""
    board = Board("meterbox-run", "Run", "One run, call by call. Come here from Runs, or type a run id.", 24)
    board.asks(*sources(api=True), box("run", "Run id"))
    board.show(
        figure("What did it spend?", "Charged so far, descendants included.", _one("spent_usd"), USD),
        figure("What is held?", "Promised to calls under way; it is not spent yet.", _one("held_usd"), USD),
        figure(
            "What may it spend?",
            "The limit in force: the lower of the configuration and of what was asked. Blank: no budget limits it.",
            _one("limits.usd"),
            USD,
        ),
        figure(
            "What went over?",
            "What a provider wrote past its grant. Anything but zero: see the runbook `overrun`.",
            _one("overrun_usd"),
            USD,
            ((None, "green"), (0.000001, RED)),
        ),
        figure(
            "How many calls?", "Calls that were sent to a provider; refused ones are not counted.", _one("calls"), COUNT
        ),
        word(
            "Where does it stand?",
            "active, waiting for a person, paused until resumed, ended, killed.",
            Asking(RUN, [("state", "state", "string")], "", "A"),
            "state",
        ),
    )
    board.show(note("What can I do?", COMMANDS, (16, 6)), _facts())
    board.row("What did it do?")
    board.show(_calls())
    board.show(_tools(), _held())
    return board


def _one(field: str) -> Asking:
    return Asking(RUN, [(field, field, "number")], "", "A")


def _facts() -> object:
    columns = [
        ("agent", "agent", "string"),
        ("user", "user", "string"),
        ("outcome", "outcome", "string"),
        ("reason", "reason", "string"),
        ("parent", "parent", "string"),
        ("run_id", "traces", "string"),
    ]
    return rows(
        "Whose is it?",
        "Who made it, how it ended and why; `traces` leads to the spans of this run.",
        [Asking(RUN, columns, "", "A")],
        columns={
            "parent": {"links": [run_link("${__value.text}")]},
            "traces": {"links": [trace_link("${__value.text}")]},
        },
        size=(8, 6),
    )


def _calls() -> object:
    return rows(
        "Where did the money go?",
        "Every call in order, refused ones too. Costs that grow with each step are a context that is never cut; equal "
        "steps without end are a loop. `known from` says how sure the cost is: presumed and estimate are bounds.",
        [Asking(f"{RUN}/calls?limit=1000", CALLS, "items", "A")],
        columns={
            "cost": {"unit": USD, "decimals": 6, **coloured(((None, "text"), (0.1, YELLOW), (1, RED)))},
            "took": {"unit": MILLISECONDS},
            "first token": {"unit": MILLISECONDS},
            "step": {"custom.width": 60},
        },
        size=(24, 12),
    )


def _tools() -> object:
    return rows(
        "Which tools did it use?",
        "Reconstructed from the calls: from the answer that asked to the request that brought the result. The same "
        "tool again and again, or one that always fails, is the usual cause of a runaway.",
        [Asking(f"{RUN}/tools?limit=1000", TOOLS, "items", "A")],
        columns={"took": {"unit": MILLISECONDS}, "asked in step": {"custom.width": 110}},
        size=(14, 9),
    )


def _held() -> object:
    return rows(
        "What is still open?",
        "Calls under way, descendants' too, and what each holds. Empty when nothing runs: `kill` then stops only what "
        "would come.",
        [Asking(f"{RUN}/held?limit=100", HELD, "items", "A")],
        columns={"held": {"unit": USD, "decimals": 4}, "run": {"links": [run_link("${__value.text}")]}},
        size=(10, 9),
    )
