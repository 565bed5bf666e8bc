"""Claims about the rules: promtool can read them, each alert fires when it should, each leads to a page that helps."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.pages import FOLDER, metrics, questions
from tests.play import ROOT

RULES = FOLDER / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
# The gateway's own alerts (http.md section 5) and the pages that serve them too.
OWN = {
    "budget_threshold": "budget.md",
    "burn_rate": "burn-rate.md",
    "run_stopped": "refused.md",
    "price_unknown": "price-missing.md",
    "provider_down": "provider.md",
    "telemetry_backlog": "telemetry.md",
}


def rules(kind: str) -> list[dict[str, Any]]:
    """All alerts, or all recorded figures."""
    found: list[dict[str, Any]] = []
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            found += [rule for rule in group["rules"] if kind in rule]
    return found


def cases() -> list[dict[str, Any]]:
    """What promtool is told to expect."""
    found: list[dict[str, Any]] = []
    for path in sorted((RULES / "tests").glob("*.yaml")):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            found += test.get("alert_rule_test", [])
    return found


@pytest.mark.server
@pytest.mark.timeout(600)  # 12 s of CPU, which a busy machine makes minutes of
def test_promtool_takes_the_rules_and_their_tests() -> None:
    """`promtool check rules` and `promtool test rules` on what is committed."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    files, tests = (sorted(map(str, folder.glob("*.yaml"))) for folder in (RULES, RULES / "tests"))
    for words in (["check", "rules", *files], ["test", "rules", *tests]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=280, check=False)
        assert 0 == done.returncode, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_alert_is_seen_firing() -> None:
    """Each alert has a case in which it fires, and its runbook in the answer."""
    fires = {case["alertname"] for case in cases() if case["exp_alerts"]}
    assert {rule["alert"] for rule in rules("alert")} == fires


def test_alerts_compare_what_is_recorded() -> None:
    """An alert names recorded figures that exist, or gauges of the gateway: nothing is counted twice, differently."""
    recorded = {rule["record"] for rule in rules("record")}
    for rule in rules("alert"):
        named = set(re.findall(r"meterbox:[\w:]+", rule["expr"]))
        assert named <= recorded, rule["alert"]
        assert not re.search(r"\b(?:rate|increase)\(", rule["expr"]), rule["alert"]
        counters = {name for name in metrics(rule["expr"]) if name.endswith("_total")}
        assert not counters, rule["alert"]
    used = {name for rule in rules("alert") for name in re.findall(r"meterbox:[\w:]+", rule["expr"])}
    shown = {name for one in questions() for name in re.findall(r"meterbox:[\w:]+", one.target.get("expr", ""))}
    assert shown <= recorded
    used |= shown
    assert {"meterbox:spent_usd:1h"} == recorded - used  # for people's own rules and graphs


def test_every_alert_fits_a_phone_and_leads_to_its_page() -> None:
    """A severity, one short sentence, where to look, and a runbook that is there."""
    pages = set()
    for rule in rules("alert"):
        said = rule["annotations"]
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert 20 < len(re.sub(r"\{\{.*?\}\}", "12345678", said["summary"])) < 110, rule["alert"]
        assert said["look"], rule["alert"]
        match = re.fullmatch(
            r"\{\{ with \$externalLabels\.docs \}\}\{\{ \. \}\}/\{\{ end \}\}(.*)", said["runbook_url"]
        )
        assert match is not None and (ROOT / match[1]).is_file(), rule["alert"]
        pages.add(Path(match[1]).name)
    there = {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert there == pages | set(OWN.values())
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for rule in rules("alert"):
        assert rule["alert"] in index, rule["alert"]
    for name, page in OWN.items():
        assert f"`{name}`" in index and page in index


@pytest.mark.parametrize("page", sorted(path.name for path in RUNBOOKS.glob("*.md") if path.name != "README.md"))
def test_a_runbook_has_four_answers_and_commands_that_exist(page: str) -> None:
    """What it means, look, stop, prevent; every `meterbox` command in it is a verb with options of docs/cli.md."""
    text = (RUNBOOKS / page).read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert ["What it means", "Look", "Stop", "Prevent"] == heads, page
    assert len(text.splitlines()) <= 60, "one page"
    cli = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for line in re.findall(r"`(meterbox [^`]+)`", text) + re.findall(r"^(meterbox .*)$", text, re.MULTILINE):
        verb = line.split()[1]
        assert f"`meterbox {verb}" in cli, f"{page}: {line}"
        for option in re.findall(r"(--[a-z-]+)", line):
            assert f"`{option}" in cli or f"{option} " in cli, f"{page}: {line}"
