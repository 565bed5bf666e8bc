"""What the configuration says to projections: plain values that one process hands another, checked before.

Invariant: what may be a credential (header values, secrets, channel URLs, proxies' passwords) never shows when such a
value is printed or logged; every URL here was judged by the configuration. What never enters: how the file spells a
setting (config_projections.py), a default that the operator can't see there.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from gateway.core.types import Unit
from gateway.core.windows import Per

Preset = Literal["langfuse", "langsmith", "phoenix", "mlflow", "datadog", "honeycomb", "tempo", "generic"]
Content = Literal["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"]
Protocol = Literal["http/protobuf", "grpc"]


class Destination(Struct, frozen=True):
    """Where spans and log records go. `name` is the file's own, or `env` for the OTEL_EXPORTER_OTLP_* variables.

    endpoint: the origin with its prefix, no slash at its end; `traces_url` and `logs_url` are what is posted to.
    """

    name: str
    endpoint: str
    preset: Preset = "generic"
    headers: dict[str, str] = {}
    compression: Literal["gzip", "none"] = "gzip"
    protocol: Protocol = "http/protobuf"
    role: Literal["generation", "proxy"] = "generation"
    content: Content = "NO_CONTENT"
    aliases: bool = False  # the seed articles' names too: llm.model, llm.cost_usd, agent.iteration ...
    cache_write_key: Literal["cache_creation", "cache_write"] = "cache_creation"  # contract, rule 4: exactly one
    logs: bool = False  # findings and refusals as log records too
    timeout_s: float = 10.0
    traces_at: str = ""  # OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: taken as it is
    logs_at: str = ""
    certificate: str | None = None  # path of a CA bundle
    client_key: str | None = None
    client_certificate: str | None = None
    resource: dict[str, str] = {}  # OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME

    @property
    def traces_url(self) -> str:
        """Where spans are posted over HTTP."""
        return self.traces_at or f"{self.endpoint}/v1/traces"

    @property
    def logs_url(self) -> str:
        """Where log records are posted over HTTP."""
        return self.logs_at or f"{self.endpoint}/v1/logs"

    def __repr__(self) -> str:
        return f"Destination({self.name!r}, {self.endpoint!r}, headers of {sorted(self.headers)})"


class Channel(Struct, frozen=True):
    """Where alerts go. url: http(s) is the signed JSON webhook, any other scheme is apprise's, with its credentials.

    secret: for the webhook's signature, `whsec_` + base64; earlier: the one before it, during a rotation.
    """

    name: str
    url: str
    secret: str | None = None
    earlier: str | None = None
    local: bool = False  # its host is loopback, private, single-label or `.local`: it may resolve to such an address

    @property
    def webhook(self) -> bool:
        """Is it the signed JSON webhook?"""
        return self.url.startswith(("http://", "https://"))

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self.url.partition(':')[0]!r})"


class AlertRules(Struct, frozen=True):
    """When somebody is told, and how. hosts: where webhooks may go; empty: the hosts of the channels' own URLs."""

    channels: tuple[Channel, ...] = ()
    hosts: tuple[str, ...] = ()
    burn_per_h_nusd: int | None = 10 * 10**9  # of one run, also where no budget is set; None: not watched
    backlog_s: float = 300.0  # a projection that is further behind is an alert of its own


class MetricRules(Struct, frozen=True):
    """What the metrics projection is told; the caps of labels are the contract's and no settings."""

    version: str = ""  # of this gateway, for meterbox_build_info


class Watched(Struct, frozen=True):
    """One unit of one configured budget: its accounts are shown as gauges. Amounts: nano-dollars, or units."""

    name: str
    scope: str  # run | agent:* | agent:NAME | user:* | user:NAME | key:* | key:NAME | global
    unit: Unit
    limit: int
    per: Per | None = None  # None: per run
    zone: str = "UTC"
    shadow: bool = False


class Placed(Struct, frozen=True):
    """A provider section, as spans and metrics name it: whose it is, and where it is reached."""

    preset: str = ""
    host: str = ""
    port: int | None = None


class Telling(Struct, frozen=True):
    """All that the process of the projections is handed. What is None, or empty, doesn't run."""

    ledger: str  # path of the file
    destinations: tuple[Destination, ...] = ()
    metrics: MetricRules | None = None
    alerts: AlertRules | None = None
    budgets: tuple[Watched, ...] = ()
    sections: dict[str, Placed] = {}
    version: str = ""  # of this gateway
    price_version: str = ""  # of the price list

    @property
    def names(self) -> tuple[str, ...]:
        """The projections that these settings ask for."""
        own = [name for name, rules in (("metrics", self.metrics), ("alerts", self.alerts)) if rules is not None]
        return (*own, *(f"otlp-{destination.name}" for destination in self.destinations))
