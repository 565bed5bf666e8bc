"""`[projections]`: who is told what the gateway saw, where, and with which credentials.

Invariant: an address that may not be asked in clear text is never accepted with http; no credential is quoted in an
error; what this version can't send is an error with its reason. What never enters: a connection, the libraries that
make one (only whether they are installed).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct, structs
from pydantic import BeforeValidator, Field, field_validator, model_validator

from gateway.config_tables import Price, Seconds, Table, is_local
from gateway.config_text import nearest
from gateway.core.secret import Secret
from gateway.core.telemetry.settings import (
    AlertRules,
    Channel,
    Content,
    Destination,
    MetricRules,
    Preset,
    Telling,
    Watched,
)
from gateway.core.types import NUSD

if TYPE_CHECKING:
    from gateway.rules.budget import Budget

MOST_NAMED = 16  # destinations, and channels
MOST_HEADERS = 32
MOST_VALUE = 8_190  # as long as a header of ours may be (edge/listener.py)
STRONG_BYTES = 24  # of a webhook's secret: Standard Webhooks, "signature scheme"
ENV = "env"  # the destination that the OTEL_* variables describe
_GRPC_PORT = 4317
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # it is a file's name, too
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.IGNORECASE)
_OWN_HEADERS = frozenset(
    {"host", "content-type", "content-length", "content-encoding", "connection", "transfer-encoding", "user-agent"}
)
# The headers without which a backend's own service takes nothing (telemetry-contract.md section 7), as far as no preset
# brings them (core/telemetry/spans/presets.py): MLflow's experiment is 0 unless somebody names one.
_NEEDED = {
    "langfuse": "authorization",
    "langsmith": "x-api-key",
    "datadog": "dd-api-key",
    "honeycomb": "x-honeycomb-team",
}

_PREFIXES = {"langfuse": "/api/public/otel", "langsmith": "/otel"}  # of the path; without it they answer 404 for ever
T = TypeVar("T")


def value_of(value: Any) -> Secret:
    """A header's value, a secret or a channel's address, opaque. Raises ValueError."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError('write a text, best as "${NAME}" of an environment variable')
    if not value.isascii() or not value.isprintable() or len(value) > MOST_VALUE:
        raise ValueError(f"printable ASCII without line ends, at most {MOST_VALUE} characters")
    return Secret(value.strip())


Value = Annotated[Secret, BeforeValidator(value_of)]


def address_of(url: str) -> SplitResult:
    """An http(s) URL taken apart. Raises ValueError with what to write instead."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("not a URL: write https://host or https://host/prefix") from None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or any(c <= " " for c in url):
        raise ValueError("not an http(s) URL: write https://host or https://host/prefix")
    if parts.scheme == "http" and not is_local(host):
        raise ValueError("http only for a loopback, private, single-label or .local host: write https://")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("no user, password or fragment in this URL: a credential goes into headers, or secret")
    return parts


def endpoint_of(url: str) -> str:
    """An OTLP endpoint without a slash at its end. Raises ValueError with what to write instead."""
    parts = address_of(url)
    path = parts.path.rstrip("/")
    if parts.query:
        raise ValueError("no query here: a credential goes into headers")
    if path.endswith(("/v1/traces", "/v1/logs")):
        raise ValueError("write it without /v1/traces: that is added")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _named(tables: dict[str, T], what: str) -> dict[str, T]:
    for name in tables:
        if not _NAME.fullmatch(name) or name == ENV:
            raise ValueError(
                f"`{name[:40]}`: a {what} is named by 1 to 32 small letters, digits, `-`, `_`; "
                f"{ENV} is taken by the OTEL_* variables"
            )
    if len(tables) > MOST_NAMED:
        raise ValueError(f"at most {MOST_NAMED} of them")
    return tables


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


class DestinationTable(Table):
    """`[projections.otlp.destinations.NAME]`."""

    endpoint: str
    preset: str = "generic"
    headers: dict[str, Value] = Field(default={})
    compression: Literal["gzip", "none"] = "gzip"
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    timeout_s: Seconds = 10.0

    @field_validator("endpoint")
    @classmethod
    def _origin(cls, value: str) -> str:
        return endpoint_of(value)

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in get_args(Preset):
            raise ValueError(f"write one of {', '.join(get_args(Preset))}.{nearest(value, get_args(Preset))}")
        return value

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, Secret]) -> dict[str, Secret]:
        return checked_headers(value)

    @model_validator(mode="after")
    def _possible(self) -> DestinationTable:
        refuse_grpc(self.protocol, self.preset)
        return self


def checked_headers(named: Mapping[str, Secret]) -> dict[str, Secret]:
    """Headers by their names in small letters. Raises ValueError for one that isn't the operator's to set."""
    found = {name.lower(): value for name, value in named.items()}
    if len(found) != len(named) or len(found) > MOST_HEADERS:
        raise ValueError(f"each header once, at most {MOST_HEADERS} of them")
    for name in found:
        if not _HEADER.fullmatch(name):
            raise ValueError("a header's name is 1 to 128 letters, digits, `-`, `_`")
        if name in _OWN_HEADERS:
            raise ValueError(f"{name} is set by the exporter itself; take it out")
    return found


def refuse_grpc(protocol: str, preset: str = "generic") -> None:
    """Raises ValueError where gRPC can't be spoken."""
    if protocol == "grpc" and preset == "langfuse":
        raise ValueError('protocol: Langfuse takes no gRPC; write "http/protobuf"')
    if protocol == "grpc" and not _installed("opentelemetry.exporter.otlp.proto.grpc"):
        raise ValueError("protocol: grpc needs a package that isn't installed: pip install 'meterbox[grpc]'")


class Otlp(Table):
    """`[projections.otlp]`."""

    role: Literal["generation", "proxy"] = "generation"
    content: Content = "NO_CONTENT"
    aliases: bool = False
    logs: bool = False
    cache_write_key: Literal["cache_creation", "cache_write"] = "cache_creation"
    destinations: dict[str, DestinationTable] = Field(default={})

    @field_validator("destinations")
    @classmethod
    def _told_apart(cls, value: dict[str, DestinationTable]) -> dict[str, DestinationTable]:
        return _named(value, "destination")


class Metrics(Table):
    """`[projections.metrics]`."""

    enabled: bool = True


class ChannelTable(Table):
    """`[projections.alerts.channels.NAME]`."""

    url: Value
    secret: Value | None = None
    earlier_secret: Value | None = None

    @model_validator(mode="after")
    def _possible(self) -> ChannelTable:
        url = self.url.reveal()
        if not _SCHEME.fullmatch(url):
            raise ValueError("url: write https://..., or an address of apprise like slack://, mailto://, pagerduty://")
        secrets = [secret for secret in (self.secret, self.earlier_secret) if secret is not None]
        if not url.startswith(("http://", "https://")):
            if secrets:
                raise ValueError("secret: only webhooks (https://) are signed; take it out")
            if not _installed("apprise"):
                raise ValueError("url: this kind of channel needs a package: pip install 'meterbox[alerts]'")
            return self
        try:
            address_of(url)
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
        if self.earlier_secret is not None and self.secret is None:
            raise ValueError("earlier_secret: goes beside secret, while receivers change over")
        if any(_key_bytes(secret) is None for secret in secrets):
            raise ValueError("secret: write whsec_ and base64 of 24 to 64 random bytes: `openssl rand -base64 32`")
        return self

    @property
    def host(self) -> str | None:
        """Of a webhook, in small letters."""
        url = self.url.reveal()
        return urlsplit(url).hostname if url.startswith(("http://", "https://")) else None


def _key_bytes(secret: Secret) -> int | None:
    """How many bytes a webhook's secret has; None where it is none."""
    prefix, _, coded = secret.reveal().partition("_")
    try:
        return (len(base64.b64decode(coded, validate=True)) or None) if prefix == "whsec" else None
    except (binascii.Error, ValueError):
        return None


class Alerts(Table):
    """`[projections.alerts]`."""

    enabled: bool = True
    hosts: list[str] = Field(default=[])
    burn_usd_per_h: Price = 10 * NUSD  # 0: not watched
    backlog_s: Seconds = 300.0
    channels: dict[str, ChannelTable] = Field(default={})

    @field_validator("channels")
    @classmethod
    def _told_apart(cls, value: dict[str, ChannelTable]) -> dict[str, ChannelTable]:
        return _named(value, "channel")

    @model_validator(mode="after")
    def _allowed(self) -> Alerts:
        allowed = {host.lower() for host in self.hosts}
        for name, channel in self.channels.items():
            if allowed and channel.host is not None and channel.host not in allowed:
                raise ValueError(f"channels.{name}: its host isn't one of hosts: add it there, or leave hosts empty")
        if self.channels and not self.enabled:
            raise ValueError("channels: nobody would be told with enabled = false; take one of them out")
        return self


class Projections(Table):
    """`[projections]`."""

    otlp: Otlp = Otlp()
    metrics: Metrics = Metrics()
    alerts: Alerts = Alerts()

    def warnings(self) -> Iterator[str]:
        """What is allowed but worth a second look."""
        for name, table in self.otlp.destinations.items():
            needed = _NEEDED.get(table.preset)
            if needed is not None and needed not in table.headers:
                yield f"projections.otlp.destinations.{name}: {table.preset} usually needs the header {needed}"
            prefix = _PREFIXES.get(table.preset)
            if prefix is not None and not urlsplit(table.endpoint).path.endswith("/otel"):
                yield f"projections.otlp.destinations.{name}: {table.preset}'s endpoint usually ends in {prefix}"
            if table.protocol != "grpc" and urlsplit(table.endpoint).port == _GRPC_PORT:
                yield (
                    f'projections.otlp.destinations.{name}: 4317 is usually OTLP by gRPC: write protocol = "grpc", '
                    "or port 4318"
                )
        for name, channel in self.alerts.channels.items():
            where = f"projections.alerts.channels.{name}"
            if channel.host is not None and channel.secret is None:
                yield f"{where}: no secret, so that whoever gets its webhooks can't tell whether they are ours"
            if channel.secret is not None and (_key_bytes(channel.secret) or 0) < STRONG_BYTES:
                yield f"{where}: its secret has less than {STRONG_BYTES} bytes"


# --------------------------------------------------------------------------- what they become


class Surroundings(Struct, frozen=True):
    """What the OTEL_* variables say (config_otel.py): a destination of their own, and what is said of this service."""

    destination: Destination | None = None
    resource: dict[str, str] = {}


def telling(tables: Projections, around: Surroundings, budgets: Sequence[Budget]) -> Telling:
    """What the process of the projections is handed, as far as these tables say it."""
    otlp, alerts, env = tables.otlp, tables.alerts, around.destination
    found = [_destination(name, table) for name, table in otlp.destinations.items()]
    shared: dict[str, Any] = {
        "role": otlp.role,
        "content": otlp.content,
        "aliases": otlp.aliases,
        "cache_write_key": otlp.cache_write_key,
        "resource": around.resource,
    }
    destinations = [
        structs.replace(one, logs=one.logs or otlp.logs, **shared) for one in (*found, *([env] if env else []))
    ]
    rules = AlertRules(
        channels=tuple(_channel(name, table) for name, table in alerts.channels.items()),
        hosts=tuple(host.lower() for host in alerts.hosts),
        burn_per_h_nusd=alerts.burn_usd_per_h or None,
        backlog_s=alerts.backlog_s,
    )
    return Telling(
        ledger="",
        destinations=tuple(destinations),
        metrics=MetricRules() if tables.metrics.enabled else None,
        alerts=rules if alerts.enabled else None,
        budgets=tuple(_watched(budget) for budget in budgets),
    )


def _destination(name: str, table: DestinationTable) -> Destination:
    return Destination(
        name=name,
        endpoint=table.endpoint,
        preset=table.preset,  # type: ignore[arg-type] # looked up by the validator
        headers={header: value.reveal() for header, value in table.headers.items()},
        compression=table.compression,
        protocol=table.protocol,
        timeout_s=table.timeout_s,
    )


def _channel(name: str, table: ChannelTable) -> Channel:
    return Channel(
        name=name,
        url=table.url.reveal(),
        secret=table.secret.reveal() if table.secret is not None else None,
        earlier=table.earlier_secret.reveal() if table.earlier_secret is not None else None,
        local=table.host is not None and is_local(table.host),
    )


def _watched(budget: Budget) -> Watched:
    window = budget.window
    return Watched(
        name=budget.name,
        scope=budget.scope,
        unit=budget.unit,
        limit=budget.limit,
        per=window.per if window is not None else None,
        zone=window.zone if window is not None else "UTC",
        shadow=budget.shadow,
    )
