"""`[projections]`: what becomes of it, and errors that say where and what to do, never a credential."""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.config_projections import MOST_HEADERS, MOST_NAMED
from gateway.core.errors import ConfigError
from gateway.core.telemetry.settings import AlertRules, Channel, Destination, MetricRules, Placed, Telling, Watched
from gateway.core.types import NUSD

CANARY = "canary-never-shown-7d1f"
SECRET = "whsec_MfKQ9r8GKYqUgNdUaBuoDqDZkD9NXDT5"


def told(folder: Path, text: str, environ: dict[str, str] | None = None) -> Telling:
    """What the projections are handed under this configuration."""
    file = folder / "meterbox.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, {"HOME": str(folder)} | (environ or {})).telling()


def fault(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    """The text of the error that this configuration gives, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        told(folder, text, environ)
    assert CANARY not in str(caught.value) and CANARY not in repr(caught.value.__cause__)
    return str(caught.value).replace(f"{folder}/", "")


def destination(lines: str) -> str:
    return f"[projections.otlp.destinations.lab]\n{lines}\n"


def channel(lines: str) -> str:
    return f"[projections.alerts.channels.pager]\n{lines}\n"


# --------------------------------------------------------------------------- what becomes of it


def test_without_a_word_metrics_and_alerts_run(tmp_path):
    """No file: /metrics is rendered and alerts are kept, with $10/h a run and the default budget; nothing is sent."""
    here = version("meterbox")
    assert Telling(
        ledger=str(tmp_path / ".local/state/meterbox/ledger.sqlite3"),
        metrics=MetricRules(here),
        alerts=AlertRules(burn_per_h_nusd=10 * NUSD, backlog_s=300.0),
        budgets=(Watched("default", "run", "nusd", 10 * NUSD),),
        sections={
            "openai": Placed("openai", "api.openai.com", 443),
            "anthropic": Placed("anthropic", "api.anthropic.com", 443),
        },
        version=here,
        price_version=f"genai-prices {version('genai-prices')}",
    ) == told(tmp_path, "")


def test_all_of_it_can_be_switched_off(tmp_path):
    """With both switched off and no destination there is nothing to run."""
    off = "[projections.metrics]\nenabled = false\n[projections.alerts]\nenabled = false\n"
    assert () == told(tmp_path, off).names


def test_a_whole_configuration(tmp_path):
    """Every key arrives; what is said of all destinations is said of each."""
    text = (
        '[projections.otlp]\nrole = "proxy"\naliases = true\nlogs = true\ncache_write_key = "cache_write"\n'
        + destination(
            'endpoint = "https://cloud.langfuse.com/api/public/otel/"\npreset = "langfuse"\n'
            'headers = { Authorization = "Basic ${LF}" }\ncompression = "none"\ntimeout_s = 2.5'
        )
        + '[projections.otlp.destinations.near]\nendpoint = "http://collector:4318"\n'
        + '[projections.alerts]\nburn_usd_per_h = "2.50"\nbacklog_s = 60\nhosts = ["Pager.example"]\n'
        + channel(f'url = "https://pager.example/x?t=1"\nsecret = "${{WH}}"\nearlier_secret = "{SECRET}"')
        + '[[budgets]]\nname = "day"\nscope = "agent:*"\nusd = 25\nper = "day"\n'
        + 'zone = "Europe/Berlin"\nmode = "shadow"\n'
    )
    found = told(tmp_path, text, {"LF": CANARY, "WH": SECRET, "OTEL_RESOURCE_ATTRIBUTES": "team=ml"})
    shared: dict[str, Any] = {"role": "proxy", "aliases": True, "logs": True, "cache_write_key": "cache_write"}
    lab, near = found.destinations
    assert lab == Destination(
        "lab",
        "https://cloud.langfuse.com/api/public/otel",
        "langfuse",
        {"authorization": f"Basic {CANARY}"},
        "none",
        timeout_s=2.5,
        resource={"team": "ml"},
        **shared,
    )
    assert ("http://collector:4318", "generic", "gzip") == (near.endpoint, near.preset, near.compression)
    assert found.alerts == AlertRules(
        (Channel("pager", "https://pager.example/x?t=1", SECRET, SECRET),), ("pager.example",), 2_500_000_000, 60.0
    )
    assert Watched("day", "agent:*", "nusd", 25 * NUSD, "day", "Europe/Berlin", True) == found.budgets[-1]
    assert ("metrics", "alerts", "otlp-lab", "otlp-near") == found.names


def test_a_pace_of_zero_is_not_watched(tmp_path):
    """`burn_usd_per_h = 0` switches that alert off, and no other."""
    rules = told(tmp_path, "[projections.alerts]\nburn_usd_per_h = 0\n").alerts
    assert rules is not None and rules.burn_per_h_nusd is None


def test_a_header_can_come_from_the_environment(tmp_path):
    """A variable sets one header of one destination, as text even where it looks like a number."""
    name = "METERBOX_PROJECTIONS__OTLP__DESTINATIONS__LAB__HEADERS__X-API-KEY"
    assert {"x-api-key": "42"} == told(tmp_path, destination('endpoint = "https://h"'), {name: "42"}).destinations[
        0
    ].headers


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (destination(""), "meterbox.toml:1: projections.otlp.destinations.lab.endpoint: is missing"),
        (destination('endpont = "https://h"\nendpoint = "https://h"'), ".lab.endpont: unknown key. Did you mean `endp"),
        (
            destination('endpoint = "http://api.example.com"'),
            "meterbox.toml:2: projections.otlp.destinations.lab.endpo",
        ),
        (destination('endpoint = "http://api.example.com"'), "http only for a loopback, private, single-label"),
        (destination('endpoint = "http://169.254.169.254"'), "http only for a loopback, private, single-label"),
        (destination('endpoint = "https://h/v1/traces/"'), "write it without /v1/traces: that is added"),
        (destination('endpoint = "collector:4317"'), "not an http(s) URL: write https://host"),
        (destination(f'endpoint = "https://me:{CANARY}@h"'), "no user, password or fragment in this URL"),
        (destination(f'endpoint = "https://h/?key={CANARY}"'), "no query here: a credential goes into headers"),
        (destination('endpoint = "https://h"\npreset = "langfus"'), "write one of langfuse, langsmith, phoenix, ml"),
        (destination('endpoint = "https://h"\npreset = "langfus"'), "Did you mean `langfuse`?"),
        (destination('endpoint = "https://h"\nprotocol = "http/json"'), ".lab.protocol: should be 'http/protobuf' or"),
        (destination('endpoint = "https://h"\ncompression = "zstd"'), ".lab.compression: should be 'gzip' or 'none'"),
        (destination('endpoint = "https://h"\nprotocol = "grpc"\npreset = "langfuse"'), "Langfuse takes no gRPC"),
        (destination(f'endpoint = "https://h"\nheaders = {{ x = "{CANARY}\\n" , y = "a\\nb" }}'), "printable ASCII"),
        (destination('endpoint = "https://h"\nheaders = { x = "" }'), "headers.x: write a text, best as"),
        (destination('endpoint = "https://h"\nheaders = { "a b" = "1" }'), "a header's name is 1 to 128 letters"),
        (destination('endpoint = "https://h"\nheaders = { Host = "1" }'), "host is set by the exporter itself"),
        (destination('endpoint = "https://h"\nheaders = { X = "1", x = "2" }'), "each header once, at most 32"),
        ('[projections.otlp.destinations.env]\nendpoint = "https://h"\n', "env is taken by the OTEL_* variables"),
        ('[projections.otlp.destinations."a/b"]\nendpoint = "https://h"\n', "`a/b`: a destination is named by 1 to"),
        ('[projections.otlp]\nendpoint = "https://h"\n', "otlp.endpoint: unknown key. Known here: role, content, ali"),
        ('[[projections.otlp.destinations]]\nname = "a"\n', ":1: projections.otlp.destinations: should be a table"),
        ('[projections.otlp]\nrole = "both"\n', "meterbox.toml:2: projections.otlp.role: should be 'generation' or"),
        ('[projections.otlp]\ncontent = "SPAN_ONLY"\n', "projections.otlp.content: nothing is captured that could"),
        ('[projections.log]\nfile = "x"\n', "projections.log: this version writes no line for each call"),
        ("[projections.metrcs]\n", "projections.metrcs: unknown key. Did you mean `metrics`?"),
        (channel('url = "pager.example"'), ".channels.pager: url: write https://..., or an address of apprise"),
        (channel('url = "http://pager.example/x"'), ".channels.pager: url: http only for a loopback, private"),
        (channel(f'url = "https://u:{CANARY}@pager.example"'), "url: no user, password or fragment in this URL"),
        (channel(f'url = "slack://{CANARY}"\nsecret = "{SECRET}"'), "secret: only webhooks (https://) are signed"),
        (channel(f'url = "https://h"\nsecret = "{CANARY}"'), "secret: write whsec_ and base64 of 24 to 64 random"),
        (channel('url = "https://h"\nsecret = "whsec_"'), "secret: write whsec_ and base64 of 24 to 64 random"),
        (channel(f'url = "https://h"\nearlier_secret = "{SECRET}"'), "earlier_secret: goes beside secret"),
        ('[projections.alerts]\nhosts = ["a.example"]\n' + channel('url = "https://b.example"'), "isn't one of hosts"),
        ("[projections.alerts]\nenabled = false\n" + channel('url = "https://h"'), "nobody would be told with enabled"),
        ("[projections.alerts]\nburn_usd_per_h = -1\n", "projections.alerts.burn_usd_per_h: must not be negative"),
        ("[projections.alerts]\nbacklog_s = 0\n", "projections.alerts.backlog_s: seconds must be above 0"),
    ],
)
def test_what_cant_be_is_an_error(tmp_path, text, said):
    """Each fault names its place, its key and what to do; credentials don't show."""
    assert said in fault(tmp_path, text)


def test_there_are_limits(tmp_path):
    """Destinations, channels and headers are counted."""

    def many(table: str, line: str, count: int) -> str:
        return "".join(f"[projections.{table}.n{number}]\n{line}\n" for number in range(count))

    for table, line in (("otlp.destinations", 'endpoint = "https://h"'), ("alerts.channels", 'url = "https://h"')):
        told(tmp_path, many(table, line, MOST_NAMED))
        assert "at most 16 of them" in fault(tmp_path, many(table, line, MOST_NAMED + 1))
    for count in (MOST_HEADERS, MOST_HEADERS + 1):
        headers = ", ".join(f'h{number} = "1"' for number in range(count))
        text = destination(f'endpoint = "https://h"\nheaders = {{ {headers} }}')
        assert told(tmp_path, text) if count == MOST_HEADERS else "at most 32" in fault(tmp_path, text)


def test_what_isnt_installed_is_named(tmp_path, monkeypatch):
    """A channel or protocol whose package is an extra says which, before the start."""
    monkeypatch.setattr("gateway.config_projections.find_spec", lambda name: None)
    assert "pip install 'meterbox[alerts]'" in fault(tmp_path, channel('url = "slack://a/b/c"'))
    assert "pip install 'meterbox[grpc]'" in fault(tmp_path, destination('endpoint = "https://h"\nprotocol = "grpc"'))
    assert importlib.util.find_spec("opentelemetry.sdk") is not None  # of the base install


def test_what_is_worth_a_second_look_is_said(tmp_path):
    """A backend without its usual header or path, gRPC's port for HTTP, a webhook with no secret or a short one."""
    text = (
        destination('endpoint = "https://api.smith.langchain.com/otel"\npreset = "langsmith"')
        + '[projections.otlp.destinations.brought]\nendpoint = "https://h"\npreset = "mlflow"\n'
        + '[projections.otlp.destinations.path]\nendpoint = "https://h"\npreset = "langfuse"\n'
        + 'headers = { Authorization = "Basic x" }\n[projections.otlp.destinations.port]\nendpoint = "http://127.0.0.1:4317"\n'
        + channel('url = "https://h"')
        + '[projections.alerts.channels.short]\nurl = "https://h"\nsecret = "whsec_c2hvcnQ="\n'
    )
    told(tmp_path, text)
    said = load(tmp_path / "meterbox.toml", {}).warnings()
    assert [
        "projections.otlp.destinations.lab: langsmith usually needs the header x-api-key",
        "projections.otlp.destinations.path: langfuse's endpoint usually ends in /api/public/otel",
        'projections.otlp.destinations.port: 4317 is usually OTLP by gRPC: write protocol = "grpc", or port 4318',
        "projections.alerts.channels.pager: no secret, so that whoever gets its webhooks can't tell whether they are "
        "ours",
        "projections.alerts.channels.short: its secret has less than 24 bytes",
    ] == said


def test_content_leaves_only_where_it_is_captured(tmp_path):
    """R-083: off by default, both of them; sending without capturing is an error that says what to write."""
    sends = '[projections.otlp]\ncontent = "EVENT_ONLY"\n'
    said = fault(tmp_path, sends)
    assert said.startswith("meterbox.toml:2: projections.otlp.content: ") and '[capture] content = "on"' in said
    assert "METERBOX_PROJECTIONS__OTLP__CONTENT" in fault(
        tmp_path, "", {"METERBOX_PROJECTIONS__OTLP__CONTENT": "SPAN_ONLY"}
    )
    captured = '[capture]\ncontent = "on"\n'
    one = destination('endpoint = "https://h"')
    assert ["EVENT_ONLY"] == [to.content for to in told(tmp_path, captured + one + sends).destinations]
    assert ["NO_CONTENT"] == [to.content for to in told(tmp_path, captured + one).destinations]
    file = tmp_path / "meterbox.toml"
    contents = []
    for text in ("", captured):
        file.write_text(text)
        contents.append(load(file, {"HOME": str(tmp_path)}).capture.content)
    assert ["off", "on"] == contents
