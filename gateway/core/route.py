"""Where a request goes: its raw target taken apart, then a provider and a dialect chosen for it.

Invariant: what is compared is the path after exactly one percent-decoding; what is forwarded is the same segments in
their own spelling (http.md section 2). A target with a second reading (dot segments, encoded slashes, control
characters, absolute form) is refused. What never enters: a body, the Host header (authority decides nothing here).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from gateway.core.errors import Undecodable
from gateway.core.ports import Dialect
from gateway.core.types import Provider, Refusal

# What may stand first in a path without a section: the public APIs' own version segments.
ROOTS = frozenset({"v1", "v1beta"})
ANTHROPIC = "anthropic-messages"

# What a dialect may be asked about: any other method on its paths is understood by nobody.
_METHODS = frozenset({"GET", "POST", "DELETE"})
# TRACE sends our credential back to the caller (RFC 9110 section 9.3.8); CONNECT names a host, not a path.
_NEVER = frozenset({"TRACE", "CONNECT"})

_RUN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # design.md section 3
_SHOWN = 120  # characters of a client's path that a message repeats


class Target(Struct, frozen=True):
    """A request target, taken apart. `path` and `query` keep their spelling; `match` is what is compared."""

    run: str | None
    key: str | None
    section: str | None
    path: str
    match: str
    query: str


def take_apart(target: str, sections: Collection[str]) -> Target:
    """Splits `/run/<id>/key/<key>/<section>/<path>?<query>`. Raises Undecodable (400) where the path is ambiguous."""
    if not target.startswith("/"):
        raise Undecodable("The request target must be a path: send `/v1/...`, not a whole URL and not `*`.")
    if not (target.isascii() and target.isprintable()) or " " in target or "#" in target:
        raise Undecodable("The request target holds characters that a URL may not hold; percent-encode them.")
    spelled, _, query = target.partition("?")
    parts = [part for part in spelled.split("/") if part]
    names = [_decoded(part) for part in parts] if "%" in spelled else parts
    if "%" in spelled or "/." in spelled or "\\" in spelled:
        for name in names:
            _check(name)
    at, run, key = 0, None, None
    if len(names) > 1 and names[0] == "run":
        at, run = 2, names[1]
        if not _RUN_ID.fullmatch(run):
            raise Undecodable("The run id in the path must be 1 to 128 letters, digits, `.`, `_`, `:` or `-`.")
    if len(names) > at + 1 and names[at] == "key":
        at, key = at + 2, names[at + 1]
    section = names[at] if at < len(names) and names[at] in sections else None
    at += section is not None
    return Target(run, key, section, "/" + "/".join(parts[at:]), "/" + "/".join(names[at:]), query)


def _decoded(part: str) -> str:
    """One percent-decoding, strict: a stray `%` or bytes that aren't UTF-8 have no single reading."""
    first, *rest = part.split("%")
    raw = bytearray(first.encode())
    try:
        for piece in rest:
            raw.append(int(piece[:2], 16) if piece[:2].isalnum() and len(piece) > 1 else -1)
            raw += piece[2:].encode()
        return raw.decode("utf-8")
    except ValueError as error:
        raise Undecodable("The path holds a percent-encoding that can't be read as UTF-8.") from error


def _check(name: str) -> None:
    if name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise Undecodable(
            "The path holds a dot segment, a backslash, an encoded slash or a control character. Send the plain path."
        )


def take_key(query: str) -> tuple[str, str | None]:
    """Gemini's `?key=`: the query without it, and the credential (security.md, headers); it then rides in a header."""
    if "key=" not in query:
        return query, None
    pairs = query.split("&")
    keys = [pair[4:] for pair in pairs if pair.startswith("key=")]
    if len(keys) > 1:
        raise Undecodable("The query names `key` more than once; send one credential.")
    rest = "&".join(pair for pair in pairs if not pair.startswith("key="))
    return rest, _decoded(keys[0]) if keys else None


class Routes:
    """The configured sections and who speaks what. Of several sections, the first is a dialect's default."""

    def __init__(self, providers: Mapping[str, Provider], dialects: Sequence[Dialect], unmetered: str) -> None:
        self.sections = frozenset(providers)
        self._providers = providers
        self._allow = unmetered == "allow"
        self._spoken = {
            name: _orders([dialect for dialect in dialects if dialect.name in provider.dialects])
            for name, provider in providers.items()
        }
        self._defaults: dict[str, Provider] = {}
        for provider in providers.values():
            for dialect_name in provider.dialects:
                self._defaults.setdefault(dialect_name, provider)
        self._known = _orders([dialect for dialect in dialects if dialect.name in self._defaults])

    def choose(self, target: Target, method: str, anthropic: bool) -> tuple[Provider, Dialect | None] | Refusal:
        """Which section serves it, in which dialect (None: passed on unmetered, where the operator allows that).

        anthropic: the request carries `anthropic-version`, which tells two dialects apart that share a path.
        """
        if method in _NEVER:
            return Refusal(400, "invalid_request", f"No provider is sent {method}. Send GET or POST.")
        asked = "GET" if method == "HEAD" else method
        understood = asked in _METHODS
        if target.section is not None:
            provider = self._providers[target.section]
            for dialect in self._spoken[target.section][anthropic]:
                if understood and dialect.matches(asked, target.match):
                    return provider, dialect
            return (provider, None) if self._allow else _unmetered(method, target)
        if target.match.split("/", 2)[1] not in ROOTS:
            return self._nowhere(method, target)
        for dialect in self._known[anthropic]:
            if understood and dialect.matches(asked, target.match):
                return self._defaults[dialect.name], dialect
        fallback = self._opaque(target, anthropic)
        return (fallback, None) if self._allow and fallback is not None else _unmetered(method, target)

    def _opaque(self, target: Target, anthropic: bool) -> Provider | None:
        """Whose API a path without a section means, when no dialect knows it."""
        if target.match.startswith("/v1beta/"):
            return self._defaults.get("gemini")
        return self._defaults.get(ANTHROPIC if anthropic else "openai-chat")

    def _nowhere(self, method: str, target: Target) -> Refusal:
        first = target.match.split("/", 2)[1][:64]
        near = difflib.get_close_matches(first, [*self.sections, *ROOTS], n=1)
        hint = f" Did you mean /{near[0]}/?" if near else ""
        names = ", ".join(f"/{name}/" for name in sorted(self.sections)[:12])
        said = (
            f"{method} {target.match[:_SHOWN]} leads nowhere: no provider section is called {first!r}.{hint} "
            f"Send a path that begins with /v1/, or with one of: {names}."
        )
        return Refusal(404, "not_found", said)


def _orders(dialects: Sequence[Dialect]) -> tuple[tuple[Dialect, ...], tuple[Dialect, ...]]:
    """Both anthropic and openai-style APIs have /v1/models: the caller's own header decides which is asked first."""
    ours = tuple(dialect for dialect in dialects if dialect.name == ANTHROPIC)
    rest = tuple(dialect for dialect in dialects if dialect.name != ANTHROPIC)
    return rest + ours, ours + rest


def _unmetered(method: str, target: Target) -> Refusal:
    where = f"/{target.section}{target.match}" if target.section is not None else target.match
    return Refusal(
        403,
        "unmetered_path",
        f"{method} {where[:_SHOWN]} may cost money and this gateway can't meter it, so it was not sent. Don't retry; "
        'use a metered path such as /v1/chat/completions, or ask the operator to set [server] unmetered = "allow".',
    )
