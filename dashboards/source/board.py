"""A whole dashboard: its variables, its links to the others, its rows, and its panels in the order they are read.

Invariant: uids are stable (links and bookmarks lead there), ids count up, and the same source gives the same bytes.
What never enters: what is asked; each dashboard has a file of its own for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as md

from dashboards.source.parts import PROMETHEUS

TAG: Final = "meterbox"
ROW_HEIGHT: Final = 1
WIDTH: Final = 24
EVERYTHING: Final = ".*"

Variable = Any


def sources(api: bool = False) -> list[Variable]:
    """Where figures, traces and runs come from: the reader's choice, never an id that is baked in."""
    made: list[Variable] = [
        dashboard.DatasourceVariable("datasource").label("Metrics").type("prometheus"),
        dashboard.DatasourceVariable("tempo").label("Traces").type("tempo"),
    ]
    said = dashboard.DatasourceVariable("api").label("Gateway").type("yesoreyeram-infinity-datasource")
    return [*made, said if api else said.hide(md.VariableHide.HIDE_VARIABLE)]


def labels(*names: str) -> list[Variable]:
    """Filters by label; all at first."""
    found = []
    for name in names:
        query = f"label_values(meterbox_requests_total, {name})"
        made = dashboard.QueryVariable(name).label(name.capitalize()).query(query).datasource(PROMETHEUS)
        made.refresh(md.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(md.VariableSort.ALPHABETICAL_ASC)
        made.multi(True).include_all(True).all_value(EVERYTHING)
        found.append(made.current(md.VariableOption(selected=True, text="All", value="$__all")))
    return found


def choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> Variable:
    """A list of our own; the first is what is shown at first."""
    said = ", ".join(f"{text} : {value}" for text, value in options)
    made = dashboard.CustomVariable(name).label(label).values(said)
    return made.current(md.VariableOption(selected=True, text=options[0][0], value=options[0][1]))


def box(name: str, label: str) -> Variable:
    """What is typed, or comes with a link."""
    return dashboard.TextBoxVariable(name).label(label)


class Board:
    """Add variables, rows and panels from top to bottom; `text()` is the file."""

    def __init__(self, uid: str, title: str, says: str, hours: int = 6) -> None:
        self.uid = uid
        self._id = 0
        self._x = self._y = self._tall = 0
        self._made = dashboard.Dashboard(f"Meterbox / {title}").uid(uid).description(says).tags([TAG])
        self._made.time(f"now-{hours}h", "now").refresh("30s").timezone("browser").readonly()
        self._made.tooltip(md.DashboardCursorSync.CROSSHAIR).link(
            dashboard.DashboardLink("Meterbox")
            .type(md.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )

    def asks(self, *variables: Variable) -> Board:
        """Its variables, in the order in which they are shown."""
        for variable in variables:
            self._made.with_variable(variable)
        return self

    def row(self, title: str) -> Board:
        """A heading over what follows."""
        self._break()
        place = md.GridPos(x=0, y=self._y, w=WIDTH, h=ROW_HEIGHT)
        self._made.with_row(dashboard.Row(title).id(self._next()).grid_pos(place).collapsed(False))
        self._y += ROW_HEIGHT
        return self

    def show(self, *panels: Any) -> Board:
        """Panels from left to right; one that finds no room begins a line."""
        for panel in panels:
            size = panel.build().grid_pos
            assert size is not None
            if self._x + size.w > WIDTH:
                self._break()
            # position (0, 0) means "somewhere" to the builder, so each is placed before it is handed on
            panel.grid_pos(md.GridPos(x=self._x, y=self._y, w=size.w, h=size.h))
            self._made.with_panel(panel.id(self._next()))
            self._x += size.w
            self._tall = max(self._tall, size.h)
        return self

    def text(self) -> str:
        """The dashboard as JSON, always the same bytes."""
        return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(self._made.build()) + "\n"

    def _next(self) -> int:
        self._id += 1
        return self._id

    def _break(self) -> None:
        self._x, self._y, self._tall = 0, self._y + self._tall, 0
