"""How far the money can be believed: what is a bound, what has no price, what went over, what was corrected."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, labels, sources
from dashboards.source.parts import COUNT, SHARE, USD, at_end, bad_from, figure, graph, note, over_time

ESTIMATED = "meterbox_usage_estimated_total"
MISSING = "meterbox_price_missing_total"
OVERRUN = "meterbox_overrun_usd_total"
EVENTS = "meterbox_ledger_events_total"
REQUESTS = "meterbox_requests_total"
SENT = ask.MINE + ',outcome!="refused"'
RECONCILE = """
Once a month, and after every surprise: download the provider's usage or cost export and compare it with the ledger.

`meterbox prices diff REPORT.csv` names each day and model that differs beyond rounding, and why; `--book` books the
rest as corrections. `meterbox ledger audit` recomputes every balance from its rows; exit status 1 says that an
invariant fails.
"""


def build() -> Board:
    """Money quality."""
    board = Board("meterbox-quality", "Money quality", "How far the figures can be believed, and why not further.", 24)
    board.asks(*sources(), *labels("agent", "provider", "model"))
    board.show(
        figure(
            "How many calls are a bound?",
            "Calls whose tokens were counted by us or whose hold was charged, in proportion to those sent. They are "
            "never charged too little. Above 5 %: see which provider tells no usage.",
            at_end(ask.zero(ask.share(ask.total(ESTIMATED, ask.ROUTES), ask.total(REQUESTS, SENT)))),
            SHARE,
            bad_from(0.01, 0.05),
            size=(5, 4),
        ),
        figure(
            "How many outcomes are unknown?",
            "Calls that were presumed within the range shown: a byte had left, and nobody told what came of it. Each "
            "is charged at its whole hold until a later fact or `meterbox ledger correct` says otherwise.",
            at_end(ask.zero(ask.total(EVENTS, 'event="presumed"'))),
            COUNT,
            bad_from(1, 20),
            size=(5, 4),
        ),
        figure(
            "How many calls have no price?",
            "Models that no price list knows: their cost is not in any sum. Give them a price under [prices].",
            at_end(ask.zero(ask.total(MISSING, ask.ROUTES))),
            COUNT,
            bad_from(1, 10),
            size=(5, 4),
        ),
        figure(
            "What was written past a grant?",
            "Dollars beyond what was held, recorded as they were. Should be nothing: see the runbook `overrun`.",
            at_end(ask.zero(ask.total(OVERRUN))),
            USD,
            bad_from(0.01, 1),
            size=(5, 4),
        ),
        figure(
            "What was given back?",
            "Dollars that corrections and later facts took back within the range shown: a presumed call that turned "
            "out cheaper, or `prices diff --book`. All sums here and on the other pages are less this.",
            at_end(ask.zero(ask.total(ask.CORRECTED, ask.MINE))),
            USD,
            size=(4, 4),
        ),
    )
    board.show(
        graph(
            "Who tells no usage?",
            "Calls in an hour whose tokens are estimated or presumed, by provider and model.",
            [over_time(ask.total(ESTIMATED, ask.ROUTES, "1h", "provider, model"), "{{model}} ({{provider}})")],
            COUNT,
            stacked=True,
        ),
        graph(
            "Which models have no price?",
            "Calls in an hour to models that the price list does not know.",
            [over_time(ask.total(MISSING, ask.ROUTES, "1h", "provider, model"), "{{model}} ({{provider}})")],
            COUNT,
            stacked=True,
        ),
        graph(
            "What did the ledger note?",
            "In an hour: `clamped` answers that were bounded, `presumed` outcomes that stay unknown, `trueup` later "
            "facts, `void` calls that cost nothing, `sweep` holds of a process that died.",
            [over_time(ask.total(EVENTS, "", "1h", "event"), "{{event}}")],
            COUNT,
        ),
        graph(
            "When was a grant passed?",
            "Dollars beyond their hold in an hour.",
            [over_time(ask.total(OVERRUN, "", "1h"), "overrun")],
            USD,
        ),
        graph(
            "Why were answers cut?",
            "Answers in an hour that the gateway ended, by reason: a grant that was passed, or a person's `kill`.",
            [over_time(ask.total("meterbox_stream_cut_total", "", "1h", "reason"), "{{reason}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "What was taken back later?",
            "Dollars in an hour that corrections and later facts gave back, by provider.",
            [over_time(ask.total(ask.CORRECTED, ask.MINE, "1h", "provider"), "{{provider}}")],
            USD,
        ),
    )
    board.show(note("Does it agree with the invoice?", RECONCILE, (24, 5)))
    return board
