"""Names to addresses for upstreams: what is resolved is what is connected to, and it is a public address.

Invariant: a section that the operator did not mark as local never reaches a private, loopback or link-local address,
whatever its DNS says (security.md, upstream); metadata services are out of reach for all. What never enters: a name
that a caller chose.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

Lookup = Callable[[str, int, Any], Awaitable[list[ResolveResult]]]


class PinningResolver(AbstractResolver):
    """aiohttp connects to exactly the addresses that this returns; there is no second look-up to rebind."""

    def __init__(self, lookup: Lookup | None = None) -> None:
        self.local: set[str] = set()  # hosts that the operator's file marks as local; as many as sections
        self._lookup: Lookup = lookup if lookup is not None else ThreadedResolver().resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses that may be connected to. Raises OSError when there is none."""
        found = await self._lookup(host, port, family)
        local = host in self.local
        allowed = [result for result in found if may_connect(result["host"], local)]
        if not allowed:
            raise OSError(None, f"{host} resolves to a private address; only a local provider may have one")
        return allowed

    async def close(self) -> None:
        """Nothing is held."""


def may_connect(address: str, local: bool) -> bool:
    """Is this literal address one that a provider may have? Names (not literals) are judged when they are resolved."""
    try:
        ip = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    return local or ip.is_global
