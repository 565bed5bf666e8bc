"""Telemetry about telemetry: is what these pages show fresh, does every destination keep up, do alerts arrive."""

from __future__ import annotations

from dashboards.source import ask
from dashboards.source.board import Board, sources
from dashboards.source.parts import BYTES, COUNT, SECONDS, at_end, bad_from, figure, good_from, graph, over_time, rows

OLDEST = "meterbox_backlog_oldest_seconds"
ALERTS = "meterbox_alerts_total"
SCRAPED = "on (instance, job) (meterbox_build_info * 0 + 1)"


def build() -> Board:
    """Telemetry health."""
    board = Board(
        "meterbox-health", "Telemetry health", "Can these pages be believed now? Backlogs, deliveries, scrapes."
    )
    board.asks(*sources())
    board.show(
        figure(
            "Are the figures coming in?",
            "Gateways that Prometheus reads from. None: see the runbook `gateway-down`; money is safe, the ledger "
            "goes on without being watched.",
            at_end("count(meterbox_build_info)"),
            COUNT,
            good_from(1, 1),
            size=(5, 4),
        ),
        figure(
            "How far behind is telemetry?",
            "Age of the oldest entry that a destination has not taken yet. Nothing is lost while it waits.",
            at_end(f"max({OLDEST})"),
            SECONDS,
            bad_from(60, 300),
            size=(5, 4),
        ),
        figure(
            "Were spans refused?",
            "Spans that a destination would not take, within the range shown: it answered, and said no.",
            at_end(ask.zero(ask.total("meterbox_spans_rejected_total"))),
            COUNT,
            bad_from(1, 100),
            size=(5, 4),
        ),
        figure(
            "Was anything forgotten unread?",
            "Journal entries that were too old to keep before a destination read them: it was away for longer than the "
            "ledger remembers. Those spans are gone; the money is not.",
            at_end(ask.zero(ask.total("meterbox_entries_lost_total"))),
            COUNT,
            bad_from(1, 1),
            size=(5, 4),
        ),
        figure(
            "Do alerts leave?",
            "Age of the oldest alert that a channel has not taken. Above a minute people are not being told: see "
            "`meterbox alerts list`.",
            at_end("max(meterbox_alert_outbox_oldest_seconds)"),
            SECONDS,
            bad_from(30, 120),
            size=(4, 4),
        ),
    )
    board.show(
        graph(
            "Which destination is behind?",
            "Age of the oldest unread entry by destination. A line that rises at 45 degrees is one that takes nothing.",
            [over_time(f"max by (destination) ({OLDEST})", "{{destination}}")],
            SECONDS,
            steps=bad_from(60, 300),
        ),
        graph(
            "How much is waiting?",
            "Bytes of the journal that a destination has not taken yet.",
            [over_time("sum by (destination) (meterbox_backlog_bytes)", "{{destination}}")],
            BYTES,
        ),
        graph(
            "How many spans arrive?",
            "Spans in five minutes that a destination has accepted.",
            [
                over_time(
                    ask.total("meterbox_spans_exported_total", "", ask.NEAR, "destination"),
                    "{{destination}}, taken",
                    "A",
                ),
                over_time(
                    ask.total("meterbox_spans_rejected_total", "", ask.NEAR, "destination"),
                    "{{destination}}, refused",
                    "B",
                ),
            ],
            COUNT,
        ),
        graph(
            "How do alerts fare?",
            "Messages in an hour by channel and result. A channel that fails is tried again until it takes them.",
            [over_time(ask.total(ALERTS, "", "1h", "channel, result"), "{{channel}} {{result}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "What does a scrape cost?",
            "Lines that Prometheus reads from each gateway; from 2,000 on the rest is folded into `other`.",
            [over_time(f"scrape_samples_scraped and {SCRAPED}", "{{instance}}")],
            COUNT,
            steps=bad_from(1500, 2000),
        ),
        graph(
            "How long does a scrape take?",
            "The text is made before it is asked for: this is the reading of one file.",
            [over_time(f"scrape_duration_seconds and {SCRAPED}", "{{instance}}")],
            SECONDS,
        ),
    )
    board.show(
        rows(
            "Which version runs where?",
            "One line a gateway.",
            [at_end("meterbox_build_info", rows=True)],
            columns={"version": {"custom.width": 140}},
            renamed={"Value": "up"},
            size=(24, 5),
        )
    )
    return board
