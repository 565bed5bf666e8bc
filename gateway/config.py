"""Settings: what the operator wrote, checked whole before anything starts. Flags > `METERBOX_*` > file > defaults.

Invariant: every error names its place (file and line, variable or flag), the key, and what to do; a value is never
quoted, it may be a secret. What never enters: sockets, the ledger, a default credential.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from gateway.config_budgets import BudgetTable, cheaper_models, default_holds, doubts, faults, rules_of
from gateway.config_otel import surroundings_of
from gateway.config_projections import Projections, Surroundings, telling
from gateway.config_tables import (
    Capture,
    Detectors,
    Prices,
    ProviderTable,
    Runs,
    Server,
    Stores,
    Table,
    VirtualKey,
    is_local,
    is_loopback,
)
from gateway.config_text import Origins, Path, fill, lay, nearest, read_environment, read_file, spell
from gateway.core.errors import ConfigError
from gateway.core.secret import Secret
from gateway.core.telemetry.settings import MetricRules, Placed, Telling

if TYPE_CHECKING:
    from gateway.core.ports import Prices as PriceBook
    from gateway.core.price import Override
    from gateway.core.types import Provider
    from gateway.edge.keys import KeySpec
    from gateway.rules.budget import Budget

DEFAULT_FILE = "meterbox.toml"
_BUILT_IN = ("openai", "anthropic")
_RESERVED = frozenset({"api", "run", "key", "v1", "v1beta", "livez", "readyz", "metrics"})
_SECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Settings of the design that this version doesn't enforce: naming one must not look like a typing error.
_LATER = {
    ("rates",): "rate limits aren't enforced by this version",
    ("rules",): "this version has no rule with settings of its own",
    ("detectors",): "this version has no detectors",
    ("projections", "log"): "this version writes no line for each call; spans, /metrics and /api have the same",
    ("stores", "redis"): "this version keeps its ledger in SQLite only",
    ("keys", "scopes"): "scopes of keys aren't enforced by this version",
}
_OTLP_CONTENT = ("projections", "otlp", "content")
_NOT_CAPTURED = 'nothing is captured that could be sent: write [capture] content = "on" as well, or NO_CONTENT here'


class Settings(Table):
    """The whole configuration, checked. `load` makes one; each table is in config_tables.py."""

    server: Server = Server()
    keys: list[VirtualKey] = Field(default=[])
    sections: dict[str, ProviderTable] = Field(default={}, alias="providers")
    budgets: list[BudgetTable] = Field(default=[])
    runs: Runs = Runs()
    prices: Prices = Prices()
    stores: Stores = Stores()
    capture: Capture = Capture()
    detectors: Detectors = Detectors()
    projections: Projections = Projections()

    _surroundings: Surroundings = PrivateAttr(Surroundings())
    _file: FilePath | None = PrivateAttr(None)
    _state_dir: FilePath = PrivateAttr(FilePath())
    _origins: Origins = PrivateAttr(Origins("settings"))

    @model_validator(mode="after")
    def _told_apart(self) -> Settings:
        names = [key.name for key in self.keys]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"[[keys]]: two are named {twice}: each needs a name of its own")
        return self

    @property
    def file(self) -> FilePath | None:
        """The file that was read, if there was one."""
        return self._file

    @property
    def keys_required(self) -> bool:
        """Must callers show a virtual key? By default everywhere but on loopback (http.md section 1)."""
        return (self.server.auth or ("none" if is_loopback(self.server.host) else "keys")) == "keys"

    @property
    def state_dir(self) -> FilePath:
        """Where ledger and pepper lie unless the file says otherwise."""
        return self._state_dir

    @property
    def ledger_path(self) -> FilePath:
        """The SQLite file. A relative path is taken from the file's own folder."""
        named = self.stores.sqlite.path
        return self._beside(named) if named else self._state_dir / "ledger.sqlite3"

    @property
    def pepper_path(self) -> FilePath:
        """Where the pepper of the virtual keys' digests lies; made at first start."""
        named = self.server.pepper_file
        return self._beside(named) if named else self._state_dir / "pepper"

    def _beside(self, named: str) -> FilePath:
        path = FilePath(named).expanduser()
        return path if path.is_absolute() or self._file is None else self._file.parent / path

    def admin_listener(self) -> tuple[str, int] | None:
        """Host and port of the control plane where it has its own; None: it shares the data plane's port."""
        server = self.server
        if is_loopback(server.host) and server.admin_host is None and server.admin_port is None:
            return None
        return server.admin_host or "127.0.0.1", 8788 if server.admin_port is None else server.admin_port

    def providers(self) -> dict[str, Provider]:
        """Sections by name, the file's first and in its order, then the built-in ones it doesn't name.

        The first section that has a dialect is that dialect's default provider (design.md section 5).
        """
        names = [*self.sections, *(name for name in _BUILT_IN if name not in self.sections)]
        return {name: _provider(name, self.sections.get(name) or ProviderTable()) for name in names}

    def secrets(self) -> dict[str, Secret]:
        """Provider keys by section; a section without one passes the client's own key through."""
        return {name: table.api_key for name, table in self.sections.items() if table.api_key is not None}

    def key_specs(self) -> list[KeySpec]:
        """The virtual keys as the data plane's door takes them."""
        from gateway.edge.keys import KeySpec

        return [
            KeySpec(
                name=key.name,
                secret=key.secret,
                hash=key.hash,
                agent=key.agent,
                user=key.user,
                expires_at=key.expires.timestamp() if key.expires else None,
                in_flight=key.in_flight,
            )
            for key in self.keys
        ]

    def price_overrides(self) -> list[Override]:
        """The operator's own prices, for the price list."""
        from gateway.core.price import Override

        return [Override(**dict(override)) for override in self.prices.overrides]

    def budget_rules(self) -> list[Budget]:
        """Every budget, one for each unit that it names; with the default of $10 a run where that holds."""
        return rules_of(self.budgets)

    def telling(self) -> Telling:
        """What the process of the projections is handed."""
        from importlib.metadata import version

        here, said = version("meterbox"), telling(self.projections, self._surroundings, self.budget_rules())
        return msgspec.structs.replace(
            said,
            ledger=str(self.ledger_path),
            metrics=MetricRules(here) if said.metrics is not None else None,
            sections={name: _placed(provider) for name, provider in self.providers().items()},
            version=here,
            price_version=f"genai-prices {version('genai-prices')}",
        )

    @property
    def default_budget(self) -> bool:
        """May every run spend $10, because the file names no budget of scope run?"""
        return default_holds(self.budgets)

    def check_prices(self, prices: PriceBook, at: float) -> None:
        """Raises ConfigError where a model to degrade to has no price: every call of it would be refused."""
        if self.prices.unknown == "allow":
            return
        for path, model in cheaper_models(self.budgets):
            if not any(prices.card(provider, model, at) for provider in self.providers().values()):
                raise ConfigError(
                    f"{self._origins.place(path)}: {spell(path)}: no configured provider has a price for this model: "
                    "choose one that `meterbox prices` lists, or write its price under [[prices.overrides]]"
                )

    def check_channels(self, known: Callable[[Sequence[str]], list[bool]]) -> None:
        """Raises ConfigError for a channel whose address apprise doesn't know (cli/addresses.py asks it)."""
        named = {name: one.url.reveal() for name, one in self.projections.alerts.channels.items() if one.host is None}
        for name, knows in zip(named, known(list(named.values())) if named else [], strict=True):
            path = ("projections", "alerts", "channels", name, "url")
            if not knows:
                raise ConfigError(
                    f"{self._origins.place(path)}: {spell(path)}: apprise doesn't know this kind of address, or a part "
                    "of it is missing"
                )

    def warnings(self) -> list[str]:
        """What is allowed but worth a second look, one sentence each; said at the start and by `check`."""
        said = [*doubts(self.budgets, [key.name for key in self.keys]), *self.projections.warnings()]
        server = self.server
        if not is_loopback(server.host) and not server.behind_tls:
            said.append(
                f"server: {server.host} is reachable from elsewhere without TLS; put a TLS terminator in front and set "
                "behind_tls = true"
            )
        if not is_loopback(server.host) and not self.keys_required:
            said.append(f"server: auth = 'none' on {server.host}: whoever reaches the port spends your money")
        if self.keys and not self.keys_required:
            said.append(
                "keys: a call that shows none of these virtual keys is served too (auth = 'none'), and nothing that is "
                'set for a key binds it; write [server] auth = "keys"'
            )
        if self.keys_required and not self.keys:
            said.append("server: virtual keys are required, but there are no [[keys]]: every call will get 401")
        return said


def file_of(file: FilePath | None) -> FilePath | None:
    """The file that is meant: the one that was named, else ./meterbox.toml if there is one."""
    return FilePath(DEFAULT_FILE) if file is None and FilePath(DEFAULT_FILE).is_file() else file


def load(
    file: FilePath | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[Path, Any] | None = None,
    text: bytes | None = None,
) -> Settings:
    """Reads file (default ./meterbox.toml if present), environment, flags. Raises ConfigError with every fault.

    text: what was read from the file before, so that nothing is read now.
    """
    environ = {} if environ is None else environ
    file = file_of(file) if text is None else file
    origins = Origins(str(file) if file else "settings")
    tree = read_file(file, origins, text) if file else {}
    tree = fill(tree, environ, origins)
    read_environment(environ, tree, origins, _is_text)
    for path, value in (flags or {}).items():
        option = f"--{str(path[-1]).replace('_', '-')}"
        lay(tree, path, value, option)
        origins.put(path, option, again=True)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        # the chain is cut: pydantic's own text quotes the input, which may be a secret
        raise ConfigError("\n".join(_faults(error, origins))) from None
    if found := [f"{origins.place(path)}: {spell(path)}: {why}" for path, why in faults(settings.budgets)]:
        raise ConfigError("\n".join(found))
    if settings.capture.content == "off" and settings.projections.otlp.content != "NO_CONTENT":
        raise ConfigError(f"{origins.place(_OTLP_CONTENT)}: {spell(_OTLP_CONTENT)}: {_NOT_CAPTURED}")
    settings._surroundings = surroundings_of(environ)
    settings._file = file
    settings._origins = origins
    settings._state_dir = _state_dir(environ)
    for name in settings.sections:
        _check_section(name, origins)
    for name in settings.sections:
        try:
            _provider(name, settings.sections[name])
        except ValueError as error:
            raise ConfigError(f"{origins.place(('providers', name))}: providers.{name}: {error}") from None
    return settings


def _state_dir(environ: Mapping[str, str]) -> FilePath:
    named = environ.get("XDG_STATE_HOME", "")
    if FilePath(named).is_absolute():  # the XDG specification: a relative path is to be ignored
        return FilePath(named) / "meterbox"
    home = environ.get("HOME", "")
    return (FilePath(home) if home else FilePath.home()) / ".local" / "state" / "meterbox"


# --------------------------------------------------------------------------- providers


def _check_section(name: str, origins: Origins) -> None:
    if name in _RESERVED or not _SECTION.fullmatch(name):
        raise ConfigError(
            f"{origins.place(('providers', name))}: providers.{name}: the name stands in front of paths: write small "
            f"letters, digits, `-`, `_`, and none of {', '.join(sorted(_RESERVED))}"
        )


def _provider(name: str, table: ProviderTable) -> Provider:
    """One section laid over its preset. Raises ValueError with what is missing."""
    preset = _preset(name, table)
    named: dict[str, Any] = {key: value for key, value in table.timeouts.model_dump().items() if value is not None}
    if table.base_url is not None:
        named |= {"origin": table.base_url, "local": is_local(urlsplit(table.base_url).hostname or "")}
    if table.dialects is not None:
        named["dialects"] = tuple(table.dialects)
    if table.retries is not None:
        named["retries"] = table.retries
    found: Provider = msgspec.structs.replace(preset, name=name, has_key=table.api_key is not None, **named)
    if not found.origin:
        raise ValueError(f"preset {found.preset} has no public address: write base_url")
    return found


def _preset(name: str, table: ProviderTable) -> Provider:
    """What the section builds on: the preset it names, the one of its own name, or nothing at all."""
    from gateway.core.presets import PRESETS
    from gateway.core.types import Provider

    known = sorted({dialect for one in PRESETS.values() for dialect in one.dialects})
    for dialect in table.dialects or ():
        if dialect not in known:
            raise ValueError(f"dialects: {dialect} isn't known.{nearest(dialect, known)}")
    preset = PRESETS.get(table.preset or name)
    if preset is not None:
        return preset
    if table.preset is not None:
        raise ValueError(f"no preset is called {table.preset}.{nearest(table.preset, PRESETS)}")
    if table.base_url is None or not table.dialects:
        raise ValueError(f"no preset has this name, so it needs base_url and dialects.{nearest(name, PRESETS)}")
    return Provider(name=name, preset="", origin="", dialects=())


def _placed(provider: Provider) -> Placed:
    at = urlsplit(provider.origin)
    return Placed(provider.preset, at.hostname or "", at.port or {"https": 443, "http": 80}.get(at.scheme))


# --------------------------------------------------------------------------- faults


def _faults(error: ValidationError, origins: Origins) -> Iterator[str]:
    """One line for each fault: place, key, what is wrong, what to do."""
    for fault in error.errors(include_url=False, include_input=False):
        path: Path = fault["loc"]
        yield f"{origins.place(path)}: {spell(path)}: {_reason(fault['type'], path, fault)}".replace(": : ", ": ")


def _reason(kind: str, path: Path, fault: Any) -> str:
    if kind == "extra_forbidden":
        words = tuple(part for part in path if isinstance(part, str))
        later = _LATER.get(words) or _LATER.get(words[:1])
        if later is not None:
            return f"{later}; take it out, so that nobody relies on it"
        return f"unknown key.{nearest(str(path[-1]), _keys(path[:-1]), listed=True)}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "string_pattern_mismatch":
        return "1 to 128 letters, digits, `.`, `_`, `:`, `-`"
    if kind == "list_type" and path[-1] in ("budgets", "keys", "overrides"):
        return f"is written with two brackets, one for each of them: [[{spell(path)}]]"
    said = str(fault["msg"]).replace("Input should be", "should be")
    return "should be a table" if kind in ("model_type", "model_attributes_type", "dict_type") else said


def _keys(path: Path) -> list[str]:
    """The keys that a table may have, by walking the models down the path."""
    model: Any = Settings
    for part in path:
        model = _below(model, part)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _below(model: Any, part: str | int) -> Any:
    """What stands under a key: a field's type, or the item type of a list or dict; None where nothing is known."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            if (field.alias or name) == part:
                return field.annotation
        return None
    items = get_args(model)
    return items[-1] if items else None


def _is_text(path: Path) -> bool:
    """Is this key a text, so that a variable's value is taken as it is? Else it is read like a TOML value."""
    model: Any = Settings
    for part in path:
        model = _below(model, part)
    return bool(_kinds(model) & {str, Secret})


def _kinds(annotation: Any) -> set[Any]:
    """The types that a value may have, `| None` and notes taken off."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {annotation} if isinstance(annotation, type) else set()
