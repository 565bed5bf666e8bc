"""Which headers go on: everything except what belongs to one hop, to us, or to nobody (security.md, headers).

Invariant: nothing is added to a request; values pass byte for byte or the request is refused. What never enters: a
credential of a section (edge/pool.py puts it in), any decision about money.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.core.errors import Undecodable

OWN = "x-meterbox-"
CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")

# RFC 9110 section 7.6.1: these end at this hop. `expect` is answered by us.
_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"})
_REQUEST = _HOP | {"host", "content-length", "cookie", "accept-encoding", "forwarded"}
_REQUEST_WITHOUT_KEY = _REQUEST | frozenset(CREDENTIALS)
_REQUEST_PREFIXES = (OWN, "proxy-", "x-forwarded-")
# Lengths are set anew by whoever writes the body; a provider's cookies, software and CORS rights are not its caller's.
_ANSWER = _HOP | {"content-length", "set-cookie", "set-cookie2", "server"}
_ANSWER_PREFIXES = (OWN, "proxy-", "access-control-")
_HARMLESS = frozenset({"", "close", "keep-alive"})

Headers = list[tuple[str, str]]


def take(items: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """A request's headers with names in lower case. Raises Undecodable: not UTF-8, or one of ours twice.

    Bytes that aren't UTF-8 come from the parser as lone surrogates.
    """
    headers = tuple([(name.lower(), value) for name, value in items])
    text = "".join([value for _, value in headers])
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Undecodable("A header is not UTF-8. Send plain text in headers.") from error
    names = [name for name, _ in headers]
    if len(set(names)) < len(names):
        own = [name for name in names if name.startswith(OWN)]
        if len(own) != len(set(own)):
            raise Undecodable("An x-meterbox- header is given more than once; send each at most once.")
    return headers


def to_provider(headers: Sequence[tuple[str, str]], replaces_credentials: bool) -> Headers:
    """What of a request goes on. The client's own credentials stay behind where the section has a key of its own."""
    drop = (_REQUEST_WITHOUT_KEY if replaces_credentials else _REQUEST) | _named(headers)
    return [head for head in headers if head[0] not in drop and not head[0].startswith(_REQUEST_PREFIXES)]


def to_client(headers: Sequence[tuple[str, str]]) -> Headers:
    """What of an answer goes back."""
    drop = _ANSWER | _named(headers)
    kept = [
        head
        for head in headers
        if head[0] not in drop and not head[0].startswith(_ANSWER_PREFIXES) and head[0] != "x-content-type-options"
    ]
    kept.append(("x-content-type-options", "nosniff"))
    return kept


def _named(headers: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Headers that Connection names: they belong to this hop as well."""
    for name, value in headers:
        if name == "connection" and value.lower() not in _HARMLESS:
            return frozenset(
                word.strip().lower() for have, list_ in headers if have == "connection" for word in list_.split(",")
            )
    return frozenset()
