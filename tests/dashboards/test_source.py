"""Claims about the dashboards: the files are what their source makes, and each panel is fit for 3 a.m."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dashboards.source.__main__ import texts
from gateway.core.telemetry.metrics import families
from tests.dashboards.pages import FOLDER, INFINITY, PROMETHEUS, metrics, pages, panels, questions

UIDS = {
    "overview.json": "meterbox-overview",
    "runs.json": "meterbox-runs",
    "run.json": "meterbox-run",
    "budgets.json": "meterbox-budgets",
    "tools.json": "meterbox-tools",
    "providers.json": "meterbox-providers",
    "quality.json": "meterbox-quality",
    "health.json": "meterbox-health",
}


def test_the_files_are_what_the_source_makes() -> None:
    """Byte for byte, each way: no file without its source, no source without its file."""
    made = texts()
    assert sorted(made) == sorted(["rules/recording.yaml", *(path.name for path in FOLDER.glob("*.json"))])
    for name, text in made.items():
        same = text.encode() == (FOLDER / name).read_bytes()
        assert same, f"dashboards/{name} is not what its source makes: run `make dashboards`"


def test_uids_stay() -> None:
    """Links and bookmarks lead to these (R-158)."""
    assert UIDS == {name: page["uid"] for name, page in pages().items()}


def test_no_datasource_is_baked_in() -> None:
    """Every datasource is a variable that the page has."""
    for name, page in pages().items():
        variables = {variable["name"] for variable in page["templating"]["list"]}
        assert {"datasource", "tempo"} <= variables, name
        found = re.findall(r'"uid": "([^"]+)"', json.dumps(page))
        named = [uid for uid in found if uid != page["uid"]]
        assert named and all(re.fullmatch(r"\$\{(\w+)\}", uid) and uid[2:-1] in variables for uid in named), name


@pytest.mark.parametrize("name", sorted(UIDS))
def test_every_panel_answers_a_question(name: str) -> None:
    """A title that asks, a description that says more, a unit, and a place that nothing else has."""
    page = pages()[name]
    titles: set[str] = set()
    taken: set[tuple[int, int]] = set()
    for panel in panels(page):
        title = panel["title"]
        assert title.endswith("?") and title not in titles, title
        titles.add(title)
        assert len(panel["description"]) > 10, title
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"], title
            assert panel["targets"], title
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, f"{name}: {title} lies over another panel"
        taken |= cells
    ids = [panel["id"] for panel in page["panels"]]
    assert len(ids) == len(set(ids))


def test_every_variable_is_known() -> None:
    """A query names only variables of its page, or Grafana's own."""
    for name, page in pages().items():
        known = {variable["name"] for variable in page["templating"]["list"]}
        for panel in panels(page):
            for target in panel.get("targets", []):
                said = target.get("expr", "") + target.get("url", "")
                for variable in re.findall(r"\$\{?(\w+)", said):
                    assert variable in known or variable == "__range", f"{name}: {panel['title']}: ${variable}"


def test_every_query_goes_through_a_variable() -> None:
    """Prometheus for figures, the gateway's own API for runs; nothing else."""
    kinds = {question.kind for question in questions()}
    assert {PROMETHEUS, INFINITY} == kinds


def test_money_is_never_guessed() -> None:
    """No `increase()`, no `rate()`: they miss what a new series begins with (telemetry-contract.md section 6.3)."""
    for question in questions():
        if question.kind == PROMETHEUS:
            assert not re.search(r"\b(?:increase|rate|irate)\(", question.expression), question.name


def test_links_lead_to_pages_that_exist() -> None:
    """Every link within Grafana names a uid of ours, or Explore with the traces' datasource."""
    uids = set(UIDS.values())
    found: list[str] = []
    for page in pages().values():
        found += _urls(page)
    assert {"/explore", *(f"/d/{uid}" for uid in ("meterbox-run", "meterbox-runs"))} == {
        url.split("?")[0] for url in found
    }
    for url in found:
        target = url.split("?")[0]
        assert target == "/explore" or target.removeprefix("/d/") in uids
        assert "${tempo" in url, url


def _urls(said: Any) -> list[str]:
    if isinstance(said, dict):
        own = [said["url"]] if isinstance(said.get("url"), str) and "targetBlank" in said else []
        return own + [url for value in said.values() for url in _urls(value)]
    return [url for value in said for url in _urls(value)] if isinstance(said, list) else []


def test_every_metric_is_one_that_the_gateway_shows() -> None:
    """Pages and rules name only metrics of the gateway's own table, and Prometheus' own two."""
    known = {"scrape_samples_scraped", "scrape_duration_seconds"}
    endings = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "histogram": ("_bucket", "_sum", "_count")}
    for family in families.ALL:
        known |= {family.name + ending for ending in endings[family.kind]}
    for question in questions():
        if question.kind == PROMETHEUS:
            assert metrics(question.expression) <= known, question.name
    for path in (FOLDER / "rules").glob("*.yaml"):
        named = metrics(re.sub(r"^\s*#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named - {"gen_ai_provider_name"} <= known, path.name
