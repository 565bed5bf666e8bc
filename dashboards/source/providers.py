"""Providers: are they slow, do they fail, what do tokens cost in time; and what the gateway itself adds."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, labels, sources
from dashboards.source.parts import (
    COUNT,
    SECONDS,
    SHARE,
    at_end,
    bad_from,
    figure,
    graph,
    over_time,
)

DURATION = "gen_ai_client_operation_duration_seconds"
FIRST = "gen_ai_server_time_to_first_token_seconds"
EACH = "gen_ai_server_time_per_output_token_seconds"
PROVIDER = "gen_ai_provider_name"
MODEL = "gen_ai_request_model"
SEEN = f"{{{{{PROVIDER}}}}} {{{{{MODEL}}}}}"
ATTEMPTS = "meterbox_upstream_attempts_total"
REQUESTS = "meterbox_requests_total"
OVERHEAD = "meterbox_overhead_seconds"


def _failing(by: str, window: str) -> str:
    failed = ask.total(REQUESTS, ask.MINE + ',outcome=~"upstream_error|unknown"', window, by)
    return ask.share(failed, ask.total(REQUESTS, ask.MINE + ',outcome!="refused"', window, by))


def build() -> Board:
    """Providers."""
    board = Board("meterbox-providers", "Providers", "Is it the provider? Latency, first token, errors, attempts.", 3)
    board.asks(*sources(), *labels("agent", "provider", "model"))
    board.show(
        figure(
            "How many calls fail?",
            "Upstream errors and unknown outcomes of the last hour, in proportion to the calls that were sent.",
            at_end(ask.zero(_failing("", "1h"))),
            SHARE,
            bad_from(0.02, 0.05),
            size=(6, 4),
        ),
        figure(
            "How long until the first token?",
            "95th percentile of the last hour, streams only; counted up to 10 s. Above that an agent feels dead: try "
            "another model.",
            at_end(ask.quantile(0.95, FIRST, ask.WIRE, "1h")),
            SECONDS,
            bad_from(2.5, 7.5),
            size=(6, 4),
        ),
        figure(
            "How long does a call take?",
            "95th percentile of the last hour, the whole answer.",
            at_end(ask.quantile(0.95, DURATION, ask.WIRE, "1h")),
            SECONDS,
            bad_from(40, 80),
            size=(6, 4),
        ),
        figure(
            "What does the gateway add?",
            "99th percentile of the last hour over a whole call, waits for a budget left out. Above 50 ms look at the "
            "machine's CPU and at the disk under the ledger.",
            at_end(ask.quantile(0.99, OVERHEAD, 'phase="total"', "1h")),
            SECONDS,
            bad_from(0.05, 0.2),
            size=(6, 4),
        ),
    )
    board.row("Is it slow? (by the names of the conventions: filtered by model only)")
    board.show(
        graph(
            "How long until the first token, by model?",
            "95th percentile in five minutes. Dots are calls: click one for its trace.",
            [over_time(ask.quantile(0.95, FIRST, ask.WIRE, ask.NEAR, f"{PROVIDER}, {MODEL}"), SEEN, exemplars=True)],
            SECONDS,
        ),
        graph(
            "How long does a call take, by model?",
            "95th percentile in five minutes, all calls. Long answers take long: compare with the next panel.",
            [over_time(ask.quantile(0.95, DURATION, ask.WIRE, ask.NEAR, f"{PROVIDER}, {MODEL}"), SEEN, exemplars=True)],
            SECONDS,
        ),
        graph(
            "How long does each token take?",
            "Median time per output token after the first, by model. It rises when a provider is overloaded, before "
            "errors begin.",
            [over_time(ask.quantile(0.5, EACH, ask.WIRE, ask.NEAR, f"{PROVIDER}, {MODEL}"), SEEN)],
            SECONDS,
        ),
        graph(
            "What does the gateway add, and where?",
            "99th percentile in five minutes by phase: until the call was admitted, until the first byte was handed "
            "on, in total.",
            [over_time(ask.quantile(0.99, OVERHEAD, "", ask.NEAR, "phase"), "{{phase}}")],
            SECONDS,
        ),
    )
    board.row("Does it fail?")
    board.show(
        graph(
            "Which provider fails?",
            "Upstream errors and unknown outcomes in five minutes, in proportion to the calls that were sent. All at "
            "once is our own line; one alone is theirs.",
            [over_time(_failing("provider", ask.NEAR), "{{provider}}")],
            SHARE,
            steps=bad_from(0.05, 0.2),
        ),
        graph(
            "With which errors?",
            "Calls with an error in five minutes. `429` is their limit on us, `529` and `503` their overload, "
            "`timeout` and `connection_error` may be our line.",
            [
                over_time(
                    ask.total(f"{DURATION}_count", ask.WIRE + ',error_type!=""', ask.NEAR, f"{PROVIDER}, error_type"),
                    f"{{{{{PROVIDER}}}}} {{{{error_type}}}}",
                )
            ],
            COUNT,
            stacked=True,
        ),
        graph(
            "How do attempts end?",
            "Upstream attempts in five minutes, retries and fallbacks each. More attempts than calls: something is "
            "being tried again.",
            [over_time(ask.total(ATTEMPTS, ask.ROUTES, ask.NEAR, "provider, result"), "{{provider}} {{result}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "How many calls?",
            "Calls in five minutes by model, refused ones left out.",
            [
                over_time(
                    ask.most(10, ask.total(REQUESTS, ask.MINE + ',outcome!="refused"', ask.NEAR, "provider, model")),
                    "{{model}} ({{provider}})",
                )
            ],
            COUNT,
            stacked=True,
        ),
    )
    return board
