"""Every metric that `/metrics` shows, once: name, kind, unit, labels, buckets, and how many series it may have.

Invariant: no label holds a run, a call, a user, a path or an error's text; all families at their fullest stay below
`LINES_MOST` lines together, comments included. What never enters: a value, what feeds a metric (`folding`, `standing`).

Labels that a caller or an operator can invent are `free`: each has so many places, and what finds none is called
`other`. Of a family that is full, the next label set goes to a coarser series: the last of its free labels are `other`
there, then all of them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct

LINES_MOST: Final = 2_000  # contract 6.3
COUNTER_LINES: Final = 660
HISTOGRAM_LINES: Final = 1_000
TOLD_LINES: Final = 230  # what is read at each rendering: gauges, and what other projections say of themselves
OTHER: Final = "other"
NONE: Final = "none"

Kind = Literal["counter", "gauge", "histogram", "info"]
# free: a place of its own or `other`. closed: one of a few words of ours, kept in spare series. error: the same, but
# spare series only tell failures from the rest.
Sort = Literal["free", "closed", "error"]
# What an integer of a value stands for: itself, or so many billionths (nano-dollars, nanoseconds).
Scale = Literal[1, 1_000_000_000]

SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS: Final = tuple(float(4**power) for power in range(14))
FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EACH_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
AGENT_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
ADDED: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
CALL_USD: Final = (0.0001, 0.00025, 0.0006, 0.0015, 0.004, 0.01, 0.025, 0.06, 0.15, 0.4, 1.0, 2.5)
RUN_USD: Final = (0.001, 0.0025, 0.006, 0.015, 0.04, 0.1, 0.25, 0.6, 1.5, 4.0, 10.0, 25.0, 60.0, 100.0)
STEPS: Final = (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0)
RUN_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0)

# Places of a free label on counters and gauges, and on histograms; beside them there is `other`.
PLACES: Final = 50
HISTOGRAM_PLACES: Final = MappingProxyType(
    {"agent": 4, "model": 4, "response": 4, "tool": 10, "provider": 8, "server": 8}
)


class Label(Struct, frozen=True):
    """One label. places: whose places it shares with the same label of other families."""

    name: str
    sort: Sort = "closed"
    places: str = ""


class Family(Struct, frozen=True):
    """One metric. `most` series with its `spare` ones; `name` is without `_total`, `_bucket` or `_info`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[Label, ...] = ()
    unit: str = ""
    scale: Scale = 1
    buckets: tuple[float, ...] = ()
    most: int = 1
    spare: int = 1

    @property
    def lines(self) -> int:
        """Lines of one series: buckets with +Inf, sum and count."""
        return len(self.buckets) + 3 if self.kind == "histogram" else 1

    @property
    def head(self) -> int:
        """Lines of comment."""
        return 3 if self.unit else 2


KEY: Final = Label("key", "free", "key")
AGENT: Final = Label("agent", "free", "agent")
PROVIDER: Final = Label("provider", "free", "provider")
MODEL: Final = Label("model", "free", "model")
WHOSE: Final = (KEY, AGENT, PROVIDER, MODEL)

ERROR: Final = Label("error_type", "error")
_OPERATION: Final = (
    Label("gen_ai_operation_name", "free", "operation"),
    Label("gen_ai_provider_name", "free", "provider"),
    Label("gen_ai_request_model", "free", "model"),
)
_CALL: Final = (
    *_OPERATION,
    Label("gen_ai_response_model", "free", "response"),
    Label("server_address", "free", "server"),
    Label("server_port", "free", "port"),
)
_NANO: Final = 1_000_000_000


def _seconds(name: str, text: str, labels: tuple[Label, ...], buckets: tuple[float, ...], most: int) -> Family:
    spare = 2 if ERROR in labels else 1
    return Family(name, "histogram", text, labels, "seconds", _NANO, buckets, most, spare)


# --------------------------------------------------------------------------- money and what it was spent on
COST: Final = Family(
    "meterbox_cost_usd", "counter", "Charged by the ledger; what was given back is in meterbox_cost_corrected_usd.",
    WHOSE, "usd", _NANO, most=90,
)  # fmt: skip
CORRECTED: Final = Family(
    "meterbox_cost_corrected_usd", "counter",
    "Given back by corrections and late facts: cost less this is what the ledger says.", WHOSE, "usd", _NANO, most=90,
)  # fmt: skip
TOKENS_USED: Final = Family(
    "meterbox_tokens", "counter", "Tokens as the provider told them; cache_* are part of input, reasoning of output.",
    (*WHOSE, Label("type")), most=150, spare=5,
)  # fmt: skip
TOKENS_CORRECTED: Final = Family(
    "meterbox_tokens_corrected", "counter", "Tokens that a later fact took back.", (Label("type"),), most=5, spare=5
)
REQUESTS: Final = Family(
    "meterbox_requests", "counter", "Calls, refused ones too, by how they ended.", (*WHOSE, Label("outcome")),
    most=120, spare=7,
)  # fmt: skip
PRICE_MISSING: Final = Family(
    "meterbox_price_missing", "counter", "Calls whose model has no price.", (PROVIDER, MODEL), most=20
)
ESTIMATED: Final = Family(
    "meterbox_usage_estimated", "counter", "Calls charged at a bound: counted by us, or presumed.", (PROVIDER, MODEL),
    most=20,
)  # fmt: skip
LEDGER_EVENTS: Final = Family(
    "meterbox_ledger_events", "counter", "What happened to holds and limits.", (Label("event"),), most=12, spare=12
)
OVERRUN: Final = Family("meterbox_overrun_usd", "counter", "Charged beyond what was held.", (), "usd", _NANO)
DENIED: Final = Family(
    "meterbox_budget_denied", "counter", "Calls that a limit refused.",
    (Label("scope"), Label("reason", "free", "reason")), most=25, spare=6,
)  # fmt: skip
CUT: Final = Family(
    "meterbox_stream_cut", "counter", "Answers that the gateway cut.", (Label("reason", "free", "cut"),), most=12
)
ATTEMPTS: Final = Family(
    "meterbox_upstream_attempts", "counter", "Tries at a provider, by result.", (PROVIDER, MODEL, Label("result")),
    most=50, spare=12,
)  # fmt: skip

# --------------------------------------------------------------------------- runs
FINISHED: Final = Family(
    "meterbox_runs_finished", "counter", "Episodes of runs that ended.", (AGENT, Label("outcome")), most=60, spare=7
)
_RUN: Final = (AGENT, Label("outcome", "free", "outcome"))
RUN_COST: Final = Family(
    "meterbox_run_cost_usd",
    "histogram",
    "What a run spent itself, observed at its end.",
    _RUN,
    "usd",
    _NANO,
    RUN_USD,
    12,
)
RUN_STEPS: Final = Family(
    "meterbox_run_steps", "histogram", "Calls of a run, observed at its end.", _RUN, buckets=STEPS, most=12
)
RUN_DURATION: Final = _seconds("meterbox_run_duration_seconds", "How long a run lasted.", _RUN, RUN_SECONDS, 12)

# --------------------------------------------------------------------------- what the gateway adds
OVERHEAD: Final = Family(
    "meterbox_overhead_seconds", "histogram", "Time of a call that was not spent at a provider.", (Label("phase"),),
    "seconds", _NANO, ADDED, 3, 3,
)  # fmt: skip
RESERVE: Final = _seconds(
    "meterbox_reserve_seconds", "From the order to the ledger's grant, waiting included.", (), ADDED, 1
)

# --------------------------------------------------------------------------- standard names (contract 6.1)
CLIENT_DURATION: Final = _seconds(
    "gen_ai_client_operation_duration_seconds", "From the first try at a provider to the end of the answer.",
    (*_CALL, ERROR), SECONDS, 12,
)  # fmt: skip
TOKEN_USAGE: Final = Family(
    "gen_ai_client_token_usage", "histogram", "Tokens of a call.", (*_CALL, Label("gen_ai_token_type")),
    buckets=TOKENS, most=16, spare=2,
)  # fmt: skip
FIRST_CHUNK: Final = _seconds(
    "gen_ai_client_operation_time_to_first_chunk_seconds", "From the try that answered to its first chunk; streams.",
    (*_CALL, ERROR), SECONDS, 8,
)  # fmt: skip
EACH_CHUNK: Final = _seconds(
    "gen_ai_client_operation_time_per_output_chunk_seconds", "Mean time between chunks of a call; streams.",
    (*_CALL, ERROR), SECONDS, 8,
)  # fmt: skip
SERVER_DURATION: Final = _seconds(
    "gen_ai_server_request_duration_seconds", "From a call's arrival at the gateway to its end.", (*_CALL, ERROR),
    SECONDS, 12,
)  # fmt: skip
SERVER_FIRST: Final = _seconds(
    "gen_ai_server_time_to_first_token_seconds",
    "From a call's arrival to the answer's beginning; streams that ended well.", _CALL, FIRST_TOKEN, 8,
)  # fmt: skip
SERVER_EACH: Final = _seconds(
    "gen_ai_server_time_per_output_token_seconds", "Time of each token after the first; streams that ended well.",
    _CALL, EACH_TOKEN, 8,
)  # fmt: skip
TOOL_DURATION: Final = _seconds(
    "gen_ai_execute_tool_duration_seconds", "From the answer that asked for a tool to the request with its result.",
    (
        Label("gen_ai_tool_name", "free", "tool"), Label("gen_ai_tool_type"),
        Label("gen_ai_agent_name", "free", "agent"), ERROR,
    ),
    SECONDS, 16,
)  # fmt: skip
AGENT_DURATION: Final = _seconds(
    "gen_ai_invoke_agent_duration_seconds", "How long a run lasted.",
    (Label("gen_ai_agent_name", "free", "agent"), ERROR), AGENT_SECONDS, 10,
)  # fmt: skip
USAGE_COST: Final = Family(
    "gen_ai_usage_cost_USD",
    "histogram",
    "What a call was charged when it ended.",
    _OPERATION,
    "USD",
    _NANO,
    CALL_USD,
    8,
)

# --------------------------------------------------------------------------- read at each rendering
BUDGETS_MOST: Final = 30
DESTINATIONS_MOST: Final = 12
CHANNELS_MOST: Final = 10
_BUDGET: Final = (Label("budget"), Label("period"))
_DESTINATION: Final = (Label("destination"),)


def _gauge(name: str, text: str, labels: tuple[Label, ...], unit: str, most: int) -> Family:
    return Family(name, "gauge", text, labels, unit, _NANO, most=most)


BUDGET_LIMIT: Final = _gauge("meterbox_budget_limit_usd", "A budget's limit.", _BUDGET, "usd", BUDGETS_MOST)
BUDGET_SPENT: Final = _gauge("meterbox_budget_spent_usd", "Spent of it.", _BUDGET, "usd", BUDGETS_MOST)
BUDGET_HELD: Final = _gauge("meterbox_budget_held_usd", "Held by calls in flight.", _BUDGET, "usd", BUDGETS_MOST)
ACTIVE: Final = Family("meterbox_runs_active", "gauge", "Runs that have not ended.", (AGENT,), most=PLACES + 2)
BACKLOG: Final = _gauge(
    "meterbox_backlog_bytes", "What a projection has still to read, about.", _DESTINATION, "bytes", DESTINATIONS_MOST
)
BACKLOG_AGE: Final = _gauge(
    "meterbox_backlog_oldest_seconds", "Age of the oldest entry not read.", _DESTINATION, "seconds", DESTINATIONS_MOST
)
LOST: Final = Family(
    "meterbox_entries_lost", "counter", "Journal entries that were forgotten before a projection read them.",
    _DESTINATION, most=DESTINATIONS_MOST,
)  # fmt: skip
EXPORTED: Final = Family("meterbox_spans_exported", "counter", "Spans taken.", _DESTINATION, most=DESTINATIONS_MOST)
REJECTED: Final = Family("meterbox_spans_rejected", "counter", "Spans refused.", _DESTINATION, most=DESTINATIONS_MOST)
ALERTS: Final = Family(
    "meterbox_alerts", "counter", "Alert messages.", (Label("channel"), Label("result")), most=2 * CHANNELS_MOST
)
OUTBOX_AGE: Final = _gauge(
    "meterbox_alert_outbox_oldest_seconds", "Age of the oldest undelivered alert.", (), "seconds", 1
)
BUILD: Final = Family("meterbox_build", "info", "The gateway that rendered this.", (Label("version"),))

# Named series of each histogram whose room no other can take: a busy day of many models would leave none to tools and
# runs, which end later than calls do.
SURE: Final = MappingProxyType({
    RUN_COST.name: 4, RUN_STEPS.name: 4, RUN_DURATION.name: 4, CLIENT_DURATION.name: 3, TOKEN_USAGE.name: 3,
    FIRST_CHUNK.name: 1, EACH_CHUNK.name: 1, SERVER_DURATION.name: 2, SERVER_FIRST.name: 2, SERVER_EACH.name: 2,
    TOOL_DURATION.name: 6, AGENT_DURATION.name: 2, USAGE_COST.name: 2,
})  # fmt: skip

FOLDED: Final = (
    COST, CORRECTED, TOKENS_USED, TOKENS_CORRECTED, REQUESTS, PRICE_MISSING, ESTIMATED, LEDGER_EVENTS, OVERRUN, DENIED,
    CUT, ATTEMPTS, FINISHED, RUN_COST, RUN_STEPS, RUN_DURATION, OVERHEAD, RESERVE, CLIENT_DURATION, TOKEN_USAGE,
    FIRST_CHUNK, EACH_CHUNK, SERVER_DURATION, SERVER_FIRST, SERVER_EACH, TOOL_DURATION, AGENT_DURATION, USAGE_COST,
)  # fmt: skip
TOLD: Final = (
    BUDGET_LIMIT, BUDGET_SPENT, BUDGET_HELD, ACTIVE, BACKLOG, BACKLOG_AGE, LOST, EXPORTED, REJECTED, ALERTS, OUTBOX_AGE,
    BUILD,
)  # fmt: skip
ALL: Final = (*FOLDED, *TOLD)
