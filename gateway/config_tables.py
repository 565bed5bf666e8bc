"""The tables of `meterbox.toml`: which keys there are, what they may hold, what this version enforces.

Invariant: a limit or switch that isn't enforced yet is an error that says so, never a warning; amounts are whole
nano-dollars; secrets are opaque. What never enters: where a text came from (config_text.py), effects of any kind.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gateway.config_text import exact_nusd, finite_s
from gateway.core.secret import Secret

_KEY_TEXT = re.compile(r"[A-Za-z0-9._~-]{8,256}")
_KEY_HASH = re.compile(r"[A-Za-z0-9_-]{1,128}\.[0-9a-f]{64}")


def _opaque(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError('write a text, best as "${NAME}" of an environment variable')
    if not value.isascii() or any(c.isspace() or not c.isprintable() for c in value.strip()):
        raise ValueError("a secret has no spaces, control characters or characters beyond ASCII")
    return Secret(value.strip())


def _positive(value: Any) -> int:
    nusd = exact_nusd(value)
    if nusd <= 0:
        raise ValueError("must be above 0; to stop everything use `meterbox kill --all`")
    return nusd


def _price(value: Any) -> int:
    nusd = exact_nusd(value)
    if nusd < 0:
        raise ValueError("must not be negative")
    return nusd


Opaque = Annotated[Secret, BeforeValidator(_opaque)]
Usd = Annotated[int, BeforeValidator(_positive)]
Price = Annotated[int, BeforeValidator(_price)]  # nano-dollars per million tokens
Seconds = Annotated[float, BeforeValidator(finite_s)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]


def is_loopback(host: str) -> bool:
    """Does this name stay on the machine?"""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_local(host: str) -> bool:
    """Loopback, private, single-label or `.local`: where plain http is allowed (design.md section 5)."""
    address = _address(host)
    if address is not None:
        # link-local addresses hold the clouds' metadata services: never an upstream (security.md, upstream)
        return (address.is_private or address.is_loopback) and not address.is_link_local and not address.is_unspecified
    return "." not in host.rstrip(".") or host.lower().rstrip(".").endswith((".local", ".localhost"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def origin_of(url: str) -> str:
    """A provider's base URL without a slash at its end. Raises ValueError with what to write instead."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("not a URL: write https://host or https://host/prefix") from None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or any(c <= " " for c in url):
        raise ValueError("not an http(s) URL: write https://host or https://host/prefix")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("no user, password, query or fragment here: a key goes into api_key")
    path = parts.path.rstrip("/")
    if path == "/v1" or path.endswith("/v1"):
        raise ValueError("write the origin without /v1: the client's own path brings it")
    if parts.scheme == "http" and not is_local(host):
        raise ValueError("http only for a loopback, private, single-label or .local host: write https://")
    return f"{parts.scheme}://{parts.netloc}{path}"


class Table(BaseModel):
    """A table of the file: strict, frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


class Server(Table):
    """`[server]`: where it listens and who may come in."""

    host: str = "127.0.0.1"
    port: int = Field(default=8787, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    auth: Literal["none", "keys"] | None = None
    admin_host: str | None = None
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    admin_token: Opaque | None = None
    max_body_mb: int = Field(default=32, ge=1, le=1024)
    unmetered: Literal["refuse", "allow"] = "refuse"
    pepper_file: str | None = None
    behind_tls: bool = False

    @field_validator("admin_token")
    @classmethod
    def _long(cls, value: Secret | None) -> Secret | None:
        if value is not None and len(value) < 32:
            raise ValueError("an admin token has at least 32 bytes: `openssl rand -hex 32` makes one")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Server:
        # security.md, keys: no default credential exists, so an open listener without a token must not start
        for host in (self.host, self.admin_host or "127.0.0.1"):
            if not is_loopback(host) and self.admin_token is None:
                raise ValueError(f"{host} is not loopback: set admin_token (at least 32 bytes), or listen on 127.0.0.1")
        return self


class VirtualKey(Table):
    """`[[keys]]`: a virtual key, as `prefix_id.secret` or as `prefix_id.` + hex of HMAC-SHA256(pepper, secret)."""

    name: Name
    secret: Opaque | None = None
    hash: str | None = None
    agent: Name | None = None
    user: Name | None = None
    expires: datetime.datetime | None = None
    in_flight: int = Field(default=512, ge=1, le=100_000)

    @field_validator("expires", mode="before")
    @classmethod
    def _instant(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value)
        if not isinstance(value, datetime.datetime) or value.tzinfo is None:
            raise ValueError("write an instant with its offset, e.g. 2026-12-31T23:59:59Z")
        return value

    @model_validator(mode="after")
    def _one(self) -> VirtualKey:
        if (self.secret is None) == (self.hash is None):
            raise ValueError('needs exactly one of secret (best as "${NAME}") and hash')
        if self.secret is not None and not _KEY_TEXT.fullmatch(self.secret.reveal()):
            raise ValueError("secret: a virtual key is 8 to 256 letters, digits, `.`, `_`, `~`, `-`")
        if self.hash is not None and not _KEY_HASH.fullmatch(self.hash):
            raise ValueError("hash: write the key's id, a point and 64 hex digits")
        return self


class Timeouts(Table):
    """`timeouts` of a provider; what isn't named keeps the preset's value."""

    connect_s: Seconds | None = None
    first_token_s: Seconds | None = None
    gap_s: Seconds | None = None
    total_s: Seconds | None = None


class ProviderTable(Table):
    """`[providers.NAME]`: overrides only what it names."""

    preset: str | None = None
    base_url: str | None = None
    dialects: list[str] | None = None
    api_key: Opaque | None = None
    timeouts: Timeouts = Timeouts()
    retries: int | None = Field(default=None, ge=0, le=10)
    fallback: list[str] = Field(default=[])

    @field_validator("base_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        return None if value is None else origin_of(value)

    @field_validator("retries")
    @classmethod
    def _once(cls, value: int | None) -> int | None:
        if value:
            raise ValueError("this version doesn't send a call again by itself; take this line out")
        return value

    @field_validator("fallback")
    @classmethod
    def _later(cls, value: list[str]) -> list[str]:
        if value:
            raise ValueError("this version doesn't fall back to another provider yet; take this line out")
        return value


class Runs(Table):
    """`[runs]`: when a run ends by itself, how long a call waits for held money, how small a clamp may get."""

    idle_s: Seconds = 600.0
    wait_s: Seconds = 30.0
    min_output: int = Field(default=256, ge=16, le=100_000)  # Responses refuses less than 16


class PriceOverride(Table):
    """`[[prices.overrides]]`: dollars per million tokens of one model, at one provider or at all."""

    model: str = Field(min_length=1, max_length=200)
    provider: str | None = None
    input: Price
    output: Price = 0  # embeddings have none
    cache_read: Price | None = None
    cache_write: Price | None = None
    cache_write_1h: Price | None = None
    context_window: int | None = Field(default=None, ge=1, le=100_000_000)
    max_output: int | None = Field(default=None, ge=1, le=10_000_000)


class Prices(Table):
    """`[prices]`."""

    unknown: Literal["refuse", "allow"] = "refuse"
    default_max_output: int = Field(default=8192, ge=16, le=10_000_000)
    overrides: list[PriceOverride] = Field(default=[])


class Sqlite(Table):
    """`[stores.sqlite]`."""

    path: str | None = None
    durability: Literal["process", "power_loss"] = "process"


class Stores(Table):
    """`[stores]`."""

    sqlite: Sqlite = Sqlite()


class Capture(Table):
    """`[capture]`: are messages kept, redacted, for seven days?"""

    content: Literal["off", "on"] = "off"


class Detectors(Table):
    """`[detectors]`: this version has none, so they can be switched off and nothing else."""

    enabled: Literal[False] = False
