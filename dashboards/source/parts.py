"""What panels are made of: a question as title, what to do in the description, queries, unit, thresholds, links.

Invariant: no datasource is named but by a variable, every panel has a description and a unit, and ids count up in the
order in which panels are added, so that the same source gives the same bytes. What never enters: an expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.models import common as mc
from grafana_foundation_sdk.models import dashboard as md
from grafana_foundation_sdk.models import prometheus as mp
from grafana_foundation_sdk.models import text as mt

PROMETHEUS: Final = mc.DataSourceRef(type_val="prometheus", uid="${datasource}")
API: Final = mc.DataSourceRef(type_val="yesoreyeram-infinity-datasource", uid="${api}")

USD, SECONDS, MILLISECONDS, SHARE, COUNT, BYTES = "currencyUSD", "s", "ms", "percentunit", "short", "bytes"
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
Steps = Sequence[tuple[float | None, str]]
CALM: Final[Steps] = ((None, BLUE),)


def bad_from(warn: float, critical: float) -> Steps:
    """Green, yellow, red as the value rises."""
    return ((None, GREEN), (warn, YELLOW), (critical, RED))


def good_from(warn: float, fine: float) -> Steps:
    """Red, yellow, green as the value rises."""
    return ((None, RED), (warn, YELLOW), (fine, GREEN))


# --------------------------------------------------------------------------- queries


class Asking(variants.Dataquery):
    """A query of `/api` through the Infinity datasource, whose base URL is the gateway's control plane."""

    def __init__(self, path: str, columns: Sequence[tuple[str, str, str]], root: str, ref: str) -> None:
        self.path = path
        self.columns = columns
        self.root = root
        self.ref = ref

    def to_json(self) -> dict[str, object]:
        """As the plug-in keeps a query."""
        return {
            "refId": self.ref,
            "datasource": API,
            "type": "json",
            "source": "url",
            "format": "table",
            "parser": "backend",
            "url": self.path,
            "url_options": {"method": "GET", "data": ""},
            "root_selector": self.root,
            "columns": [{"selector": field, "text": name, "type": kind} for field, name, kind in self.columns],
            "filters": [],
            "global_query_id": "",
        }


class _Built(cog.Builder[variants.Dataquery]):
    def __init__(self, query: variants.Dataquery) -> None:
        self._query = query

    def build(self) -> variants.Dataquery:
        """The query as it is."""
        return self._query


def over_time(expression: str, legend: str, ref: str = "A", exemplars: bool = False) -> prometheus.Dataquery:
    """A query for a graph. Exemplars only where the query reads a histogram: they are dots that lead to a trace."""
    asked = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref).range().datasource(PROMETHEUS)
    return asked.exemplar(True) if exemplars else asked


def at_end(expression: str, legend: str = "", ref: str = "A", rows: bool = False) -> prometheus.Dataquery:
    """A query for the figures of the whole range, at its end."""
    asked = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref).instant().datasource(PROMETHEUS)
    return asked.format(mp.PromQueryFormat.TABLE) if rows else asked


# --------------------------------------------------------------------------- links


def run_link(field: str) -> dict[str, object]:
    """To the page of the run that this cell names."""
    return _link("This run, call by call", f"/d/meterbox-run?var-run={field}&{SOURCES}&{TIME}")


def runs_link(agent: str) -> dict[str, object]:
    """To the runs of one agent, the dearest first."""
    which = quote("agent=", safe="") + agent + quote("&sort=-spent_usd", safe="")
    return _link("This agent's runs, the dearest first", f"/d/meterbox-runs?var-which={which}&{SOURCES}&{TIME}")


def trace_link(run: str) -> dict[str, object]:
    """To the traces of one run, found by its id: also where the run is part of a caller's own trace."""
    query = {"refId": "A", "datasource": {"type": "tempo", "uid": "${tempo}"}, "queryType": "traceql", "limit": 20}
    query["query"] = f'{{ span.meterbox.run.id = "{run}" }}'
    pane = {"t": {"datasource": "${tempo}", "queries": [query], "range": {"from": "${__from}", "to": "${__to}"}}}
    return _link("Its traces", f"/explore?schemaVersion=1&panes={_quoted(json.dumps(pane))}&orgId=${{__org.id}}")


SOURCES: Final = "${datasource:queryparam}&${api:queryparam}&${tempo:queryparam}"
TIME: Final = "${__url_time_range}"


def _link(title: str, url: str) -> dict[str, object]:
    return {"title": title, "url": url, "targetBlank": False}


def _quoted(said: str) -> str:
    """Percent-encoded but for variables: Grafana fills those in afterwards, and knows them only as they are written."""
    return "".join(part if part.startswith("${") else quote(part, safe="") for part in re.split(r"(\$\{[^}]+\})", said))


# --------------------------------------------------------------------------- panels

Panel = Any  # each kind of panel has a builder of its own, and they share no class


def _dressed(panel: Panel, title: str, says: str, size: tuple[int, int], unit: str) -> Panel:
    return panel.title(title).description(says).span(size[0]).height(size[1]).unit(unit)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    made = [md.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(md.ThresholdsMode.ABSOLUTE).steps(made)


def figure(title: str, says: str, query: Any, unit: str, steps: Steps = CALM, size: tuple[int, int] = (4, 4)) -> Panel:
    """One number, coloured by how bad it is."""
    panel = _dressed(stat.Panel(), title, says, size, unit).thresholds(_thresholds(steps)).datasource(_source(query))
    panel.color_scheme(dashboard.FieldColor().mode(md.FieldColorModeId.THRESHOLDS)).color_mode(
        mc.BigValueColorMode.VALUE
    ).graph_mode(mc.BigValueGraphMode.NONE)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)).with_target(
        _target(query)
    )


def word(title: str, says: str, query: Any, field: str, size: tuple[int, int] = (4, 4)) -> Panel:
    """One word of an answer of `/api`: a state, a name."""
    panel = _dressed(stat.Panel(), title, says, size, "string").thresholds(_thresholds(CALM)).datasource(API)
    panel.graph_mode(mc.BigValueGraphMode.NONE).color_mode(mc.BigValueColorMode.VALUE)
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(f"/^{field}$/")
    return panel.reduce_options(reduce).with_target(_target(query))


def graph(
    title: str,
    says: str,
    queries: Sequence[prometheus.Dataquery],
    unit: str,
    *,
    stacked: bool = False,
    steps: Steps = (),
) -> Panel:
    """Lines over time, a legend with the last and the greatest value; stacked where the sum is the point."""
    panel = _dressed(timeseries.Panel(), title, says, (12, 8), unit).datasource(PROMETHEUS).min(0).line_width(1)
    legend = common.VizLegendOptions().show_legend(True).display_mode(mc.LegendDisplayMode.TABLE)
    panel.legend(legend.placement(mc.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"]))
    panel.tooltip(common.VizTooltipOptions().mode(mc.TooltipDisplayMode.MULTI).sort(mc.SortOrder.DESCENDING))
    panel.fill_opacity(30 if stacked else 8).show_points(mc.VisibilityMode.AUTO)
    if stacked:
        panel.stacking(common.StackingConfig().mode(mc.StackingMode.NORMAL).group("A"))
    if steps:
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(mc.GraphThresholdsStyleMode.DASHED))
    for query in queries:
        panel.with_target(query)
    return panel


def bars(
    title: str, says: str, query: prometheus.Dataquery, unit: str, steps: Steps = CALM, size: tuple[int, int] = (12, 8)
) -> Panel:
    """A bar for each series, longest first as the query orders them."""
    panel = _dressed(bargauge.Panel(), title, says, size, unit).datasource(PROMETHEUS).min(0)
    panel.thresholds(_thresholds(steps)).orientation(mc.VizOrientation.HORIZONTAL)
    panel.display_mode(mc.BarGaugeDisplayMode.BASIC)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)).with_target(query)


def rows(
    title: str,
    says: str,
    queries: Sequence[Any],
    *,
    columns: Mapping[str, Mapping[str, object]],
    renamed: Mapping[str, str] | None = None,
    size: tuple[int, int] = (24, 10),
) -> Panel:
    """A table; `columns` says of each by its shown name which unit, width, colours or links it has."""
    panel = (
        _dressed(table.Panel(), title, says, size, COUNT).datasource(_source(queries[0])).filterable(True).no_value("-")
    )
    for query in queries:
        panel.with_target(_target(query))
    if renamed is not None:  # of Prometheus: frames side by side, without the instant
        if len(queries) > 1:
            panel.with_transformation(md.DataTransformerConfig(id_val="merge", options={}))
        hidden = {"Time": True, "__name__": True}
        panel.with_transformation(
            md.DataTransformerConfig(
                id_val="organize", options={"excludeByName": hidden, "indexByName": {}, "renameByName": dict(renamed)}
            )
        )
    for name, properties in columns.items():
        values = [md.DynamicConfigValue(id_val=key, value=value) for key, value in properties.items()]
        panel.override_by_name(name, values)
    return panel


def note(title: str, markdown: str, size: tuple[int, int] = (24, 4)) -> Panel:
    """Words, where commands are the answer."""
    panel = text.Panel().title(title).description(title).span(size[0]).height(size[1])
    return panel.mode(mt.TextMode.MARKDOWN).content(markdown)


def coloured(steps: Steps) -> dict[str, object]:
    """Properties of a column whose cells are coloured by thresholds."""
    made = [{"value": value, "color": color} for value, color in steps]
    return {"thresholds": {"mode": "absolute", "steps": made}, "custom.cellOptions": {"type": "color-text"}}


def _source(query: Any) -> mc.DataSourceRef:
    return API if isinstance(query, Asking) else PROMETHEUS


def _target(query: Any) -> Any:
    return _Built(query) if isinstance(query, Asking) else query
