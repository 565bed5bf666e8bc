"""The questions in PromQL: every expression of the dashboards is put together from these few forms.

Invariant: what is counted is told exactly. `increase()` misses the first value of a series that is new and guesses at
the edges of its window; counters of the ledger never start again, so the difference between now and then is the
answer. What never enters: a datasource, a panel, a metric that no page names.
"""

from __future__ import annotations

from typing import Final

# How far back the last sample before a window is looked for. A plain `offset` finds nothing where a scrape was
# missed just then, and would count the whole history of the counter as new.
GAP: Final = "1h"
SCRAPES: Final = "sum by (instance, job) (count_over_time(meterbox_build_info[{}]))"  # summed: an upgrade makes two

MINE: Final = 'agent=~"$agent",provider=~"$provider",model=~"$model"'
AGENTS: Final = 'agent=~"$agent"'
ROUTES: Final = 'provider=~"$provider",model=~"$model"'
# Histograms name four agents and four models at most; the rest is `other`, and is shown as that.
ENDED: Final = 'agent=~"$agent|other"'
# The standard names have the conventions' word for a provider (azure.ai.openai), the filter has the section's: only the
# model narrows these down.
WIRE: Final = 'gen_ai_request_model=~"$model|other"'
CORRECTED: Final = "meterbox_cost_corrected_usd_total"

RANGE: Final = "$__range"
NEAR: Final = "5m"


def only(where: str) -> str:
    """A selector's braces; none where nothing is asked."""
    return "{" + where + "}" if where else ""


def grown(metric: str, where: str = "", window: str = RANGE) -> str:
    """By how much a counter grew within the window, series by series.

    What it had before the window is its last value then. A series that had none is new, and counts from nothing;
    unless it was there at the first scrape ever: then the gateway is older than the watching, and only what came
    since is counted. The info metric tells how often was scraped: it is in every scrape.
    """
    now = metric + only(where)
    scraped = f"on (instance, job) group_left () {SCRAPES.format(window)}"
    first = f"(min_over_time({now}[{window}]) and (count_over_time({now}[{window}]) >= {scraped}))"
    return f"({now} - (last_over_time({now}[{GAP}] offset {window}) or {first} or {now} * 0))"


def total(metric: str, where: str = "", window: str = RANGE, by: str = "") -> str:
    """The same, summed; `by` names the labels to keep."""
    return f"sum{_by(by)} ({grown(metric, where, window)})"


def quantile(share: float, metric: str, where: str = "", window: str = NEAR, by: str = "") -> str:
    """The value below which this share of a histogram's observations of the window lie."""
    kept = "le" + (f", {by}" if by else "")
    return f"histogram_quantile({share}, sum by ({kept}) ({grown(metric + '_bucket', where, window)}))"


def share(part: str, whole: str) -> str:
    """One sum in proportion to another; 0 where the part never was, nothing at all where there is no whole."""
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def zero(expression: str) -> str:
    """0 where nothing happened: for a single figure, which must not be blank."""
    return f"({expression}) or vector(0)"


def most(count: int, expression: str) -> str:
    """The largest few, the dearest first."""
    return f"topk({count}, {expression})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


# --------------------------------------------------------------------------- money


def spent(window: str = RANGE, by: str = "", where: str = MINE) -> str:
    """Dollars that were charged within the window, less what was given back in it (corrections, later facts).

    A counter can't fall, so what is given back has one of its own: each series has its twin there, 0 at first.
    """
    charged, given = grown("meterbox_cost_usd_total", where, window), grown(CORRECTED, where, window)
    return f"(sum{_by(by)} ({charged}) - sum{_by(by)} ({given}))"


def pace(by: str = "", where: str = MINE, window: str = NEAR) -> str:
    """Dollars per hour, from the last five minutes."""
    assert window == NEAR
    return f"{spent(window, by, where)} * 12"
