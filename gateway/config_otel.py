"""The OTEL_* variables that every OpenTelemetry exporter knows, as one more destination named `env`.

They are read as the specification has them ("OpenTelemetry Protocol Exporter", "SDK environment variables"): the name
for traces wins over the general one, a timeout is in milliseconds, a header's value is percent-encoded.

Invariant: what can't be done as a variable asks is an error that names the variable and never its value. What never
enters: variables for metrics (they are scraped at /metrics), and those of the SDK that concern an instrumented program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Literal, TypeVar
from urllib.parse import unquote

from gateway.config_projections import (
    ENV,
    Surroundings,
    address_of,
    checked_headers,
    endpoint_of,
    refuse_grpc,
    value_of,
)
from gateway.core.errors import ConfigError
from gateway.core.telemetry.settings import Destination, Protocol

PREFIX = "OTEL_EXPORTER_OTLP"
MOST_TIMEOUT_MS = 600_000
MOST_ATTRIBUTES = 64
_HTTP: Protocol = "http/protobuf"
_PLAIN: Literal["gzip", "none"] = "none"  # the specification's default

T = TypeVar("T")


class _Variables:
    """The variables, each read under its most special name; an empty one is as good as none (the specification)."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def named(self, *names: str) -> str | None:
        """The first of these that says something."""
        return next((name for name in names if self._environ.get(name, "").strip()), None)

    def read(self, what: str, read: Callable[[str], T], otherwise: T) -> T:
        """One setting, for traces or for all signals. Raises ConfigError."""
        name = self.named(f"{PREFIX}_TRACES_{what}", f"{PREFIX}_{what}")
        return self.of(name, read) if name is not None else otherwise

    def of(self, name: str, read: Callable[[str], T]) -> T:
        """One variable's value, understood. Raises ConfigError."""
        try:
            return read(self._environ[name].strip())
        except ValueError as error:
            raise ConfigError(f"environment {name}: {error}") from None


def surroundings_of(environ: Mapping[str, str]) -> Surroundings:
    """What these variables say. Raises ConfigError."""
    variables = _Variables(environ)
    return Surroundings(_destination(variables, environ), _resource(variables))


def _destination(variables: _Variables, environ: Mapping[str, str]) -> Destination | None:
    whole = variables.named(f"{PREFIX}_ENDPOINT")
    traces, logs = variables.named(f"{PREFIX}_TRACES_ENDPOINT"), variables.named(f"{PREFIX}_LOGS_ENDPOINT")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or not (whole or traces):
        return None
    if (chosen := variables.named("OTEL_TRACES_EXPORTER")) and not variables.of(chosen, _wants_otlp):
        return None
    protocol = variables.read("PROTOCOL", _protocol, _HTTP)
    endpoint = variables.of(whole, endpoint_of) if whole else ""
    traces_at = variables.of(traces, _exact) if traces else ""
    return Destination(
        name=ENV,
        endpoint=endpoint if endpoint and (protocol == _HTTP or not traces_at) else traces_at,
        headers=variables.read("HEADERS", _headers, {}),
        compression=variables.read("COMPRESSION", _compression, _PLAIN),
        protocol=protocol,
        logs=logs is not None,
        timeout_s=variables.read("TIMEOUT", _timeout_s, 10.0),
        traces_at=traces_at,
        logs_at=variables.of(logs, _exact) if logs else "",
        certificate=variables.read("CERTIFICATE", _file, None),
        client_key=variables.read("CLIENT_KEY", _file, None),
        client_certificate=variables.read("CLIENT_CERTIFICATE", _file, None),
    )


def _wants_otlp(value: str) -> bool:
    words = [word.strip() for word in value.split(",")]
    if any(word not in ("otlp", "none") for word in words):
        raise ValueError("this gateway sends spans by OTLP only: write otlp, or none")
    return "otlp" in words


def _protocol(value: str) -> Protocol:
    if value == "http/json":
        raise ValueError("OTLP/JSON isn't taken by all backends (Phoenix answers 415): write http/protobuf")
    if value not in ("http/protobuf", "grpc"):
        raise ValueError("write http/protobuf or grpc")
    refuse_grpc(value)
    return "grpc" if value == "grpc" else _HTTP


def _compression(value: str) -> Literal["gzip", "none"]:
    if value not in ("gzip", "none"):
        raise ValueError("write gzip or none")
    return "gzip" if value == "gzip" else "none"


def _exact(value: str) -> str:
    address_of(value)
    return value


def _timeout_s(value: str) -> float:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= MOST_TIMEOUT_MS:
        raise ValueError(f"write whole milliseconds, 1 to {MOST_TIMEOUT_MS}")
    return int(value) / 1000


def _pairs(value: str) -> dict[str, str]:
    """`key=value,key=value`, percent-encoded (W3C baggage)."""
    found: dict[str, str] = {}
    for number, pair in enumerate((part for part in value.split(",") if part.strip()), 1):
        key, equals, said = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"its pair {number} has no `=`: write key=value,key=value")
        found[unquote(key.strip())] = unquote(said.strip())
    return found


def _headers(value: str) -> dict[str, str]:
    named = checked_headers({name: value_of(said) for name, said in _pairs(value).items()})
    return {name: secret.reveal() for name, secret in named.items()}


def _attributes(value: str) -> dict[str, str]:
    found = _pairs(value)
    if len(found) > MOST_ATTRIBUTES:
        raise ValueError(f"at most {MOST_ATTRIBUTES} attributes")
    return found


def _resource(variables: _Variables) -> dict[str, str]:
    found: dict[str, str] = {}
    if name := variables.named("OTEL_RESOURCE_ATTRIBUTES"):
        found |= variables.of(name, _attributes)
    if name := variables.named("OTEL_SERVICE_NAME"):
        found["service.name"] = variables.of(name, str)
    return found


def _file(value: str) -> str | None:
    if not FilePath(value).is_file():
        raise ValueError("there is no such file")
    return value
