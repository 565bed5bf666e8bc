"""edge/resolver.py: which addresses a provider may have. What connects to them is tested in tests/contracts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.edge.resolver import PinningResolver, may_connect


@pytest.mark.parametrize(
    ("address", "public", "local"),
    [
        ("104.18.7.192", True, True),
        ("2606:4700::6812:7c0", True, True),
        ("10.0.0.1", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("[::1]", False, True),
        ("fd00::1", False, True),
        ("100.64.0.1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("api.openai.com", True, True),
    ],
)
def test_public_addresses_are_for_all_private_ones_for_local_providers_metadata_for_none(
    address: str, public: bool, local: bool
) -> None:
    """security.md, upstream."""
    assert (public, local) == (may_connect(address, False), may_connect(address, True))


def found(*addresses: str) -> PinningResolver:
    async def lookup(host: str, port: int, _family: object) -> list[Any]:
        return [
            {"hostname": host, "host": each, "port": port, "family": 2, "proto": 0, "flags": 0} for each in addresses
        ]

    return PinningResolver(lookup)


async def test_private_addresses_among_public_ones_are_left_out() -> None:
    """What remains is connected to."""
    resolver = found("10.0.0.1", "104.18.7.192")
    assert ["104.18.7.192"] == [each["host"] for each in await resolver.resolve("a.example", 443)]


async def test_a_name_with_private_addresses_only_fails_unless_its_host_is_local() -> None:
    """The message names the host, never what was asked of it."""
    resolver = found("10.0.0.1")
    with pytest.raises(OSError, match=r"a\.example resolves to a private address"):
        await resolver.resolve("a.example", 443)
    resolver.local.add("a.example")
    assert ["10.0.0.1"] == [each["host"] for each in await resolver.resolve("a.example", 443)]
