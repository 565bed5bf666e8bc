"""The OTEL_* variables: read as the specification has them, refused with the variable's name."""

import pytest

from gateway.config import load
from gateway.config_otel import MOST_ATTRIBUTES, MOST_TIMEOUT_MS, surroundings_of
from gateway.core.errors import ConfigError
from gateway.core.telemetry.settings import Destination

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
CANARY = "canary-never-shown-7d1f"


def test_an_endpoint_makes_a_destination():
    """One variable is enough; the paths of the signals are added to it."""
    found = surroundings_of(BASE).destination
    assert Destination("env", "http://localhost:4318", compression="none") == found
    assert found is not None and "http://localhost:4318/v1/traces" == found.traces_url


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "  "},
        {"OTEL_EXPORTER_OTLP_HEADERS": "a=b"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:4318/v1/metrics"},
        BASE | {"OTEL_SDK_DISABLED": "True"},
        BASE | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_one_there_is_none(environ):
    """Nothing, an empty one, other signals' ones, or switched off: no destination."""
    assert surroundings_of(environ).destination is None


def test_the_name_for_traces_wins():
    """Each setting is looked for under traces first; an endpoint for traces is taken as it is."""
    general = BASE | {
        "OTEL_EXPORTER_OTLP_HEADERS": "x=general",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    found = surroundings_of(general).destination
    assert found is not None
    assert ({"x": "general"}, 1.5, "gzip") == (found.headers, found.timeout_s, found.compression)
    special = general | {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t.example/otel/traces?x=1",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "Authorization=Basic%20abc%3D, y = 2 ",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "250",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://l.example/logs",
    }
    found = surroundings_of(special).destination
    assert found is not None
    assert ("https://t.example/otel/traces?x=1", "https://l.example/logs", True) == (
        found.traces_url,
        found.logs_url,
        found.logs,
    )
    assert ({"authorization": "Basic abc=", "y": "2"}, 0.25, "none") == (
        found.headers,
        found.timeout_s,
        found.compression,
    )


def test_what_is_said_of_the_service_reaches_every_destination(tmp_path):
    """OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME; the latter wins (the specification)."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "team=ml%20ops,service.name=x", "OTEL_SERVICE_NAME": "mine", **BASE}
    file = tmp_path / "meterbox.toml"
    file.write_text('[projections.otlp]\nrole = "proxy"\n[projections.otlp.destinations.a]\nendpoint = "https://h"\n')
    found = load(file, environ).telling().destinations
    assert ["a", "env"] == [one.name for one in found]
    assert [({"team": "ml ops", "service.name": "mine"}, "proxy")] * 2 == [(one.resource, one.role) for one in found]


def test_certificates_are_files(tmp_path):
    """Their paths go on; one that isn't there stops the start."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    found = surroundings_of(BASE | {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}).destination
    assert found is not None and str(file) == found.certificate
    with pytest.raises(ConfigError, match="environment OTEL_EXPORTER_OTLP_CLIENT_KEY: there is no such file"):
        surroundings_of(BASE | {"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "not an http(s) URL: write https://host"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{CANARY}.example.com:4318", "http only for a loopback, private"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"https://u:{CANARY}@h/t", "no user, password or fragment"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTLP/JSON isn't taken by all backends"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", CANARY, "write http/protobuf or grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", CANARY, "write gzip or none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"a=1,{CANARY}", "its pair 2 has no `=`: write key=value,key=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"a={CANARY}%0A%0Db", "printable ASCII without line ends"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"Host={CANARY}", "host is set by the exporter itself"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", f"write whole milliseconds, 1 to {MOST_TIMEOUT_MS}"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", f"write whole milliseconds, 1 to {MOST_TIMEOUT_MS}"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", str(MOST_TIMEOUT_MS + 1), f"write whole milliseconds, 1 to {MOST_TIMEOUT_MS}"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "this gateway sends spans by OTLP only: write otlp, or none"),
        ("OTEL_RESOURCE_ATTRIBUTES", ",".join(f"k{n}=v" for n in range(MOST_ATTRIBUTES + 1)), "at most 64 attributes"),
    ],
)
def test_what_cant_be_names_its_variable(name, value, said):
    """The variable and what to write; never what was written, it may be a credential."""
    with pytest.raises(ConfigError) as caught:
        surroundings_of(BASE | {name: value})
    assert str(caught.value).startswith(f"environment {name}: ") and said in str(caught.value)
    assert CANARY not in str(caught.value)


def test_grpc_takes_the_endpoint_itself(monkeypatch):
    """With gRPC there is no path: the endpoint for traces, else the general one."""
    monkeypatch.setattr("gateway.config_projections.find_spec", lambda name: object())
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **BASE}
    found = [
        surroundings_of(grpc).destination,
        surroundings_of(grpc | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t:4317"}).destination,
    ]
    assert [("http://localhost:4318", "grpc"), ("https://t:4317", "grpc")] == [
        (one.endpoint, one.protocol) for one in found if one is not None
    ]
