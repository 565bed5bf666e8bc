"""The tables: hosts that may be reached without TLS, origins, and opaque secrets."""

import pytest
from pydantic import ValidationError

from gateway.config_tables import Prices, Server, is_local, is_loopback, origin_of


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "LOCALHOST"])
def test_loopback_stays_on_the_machine(host):
    """These need no token."""
    assert is_loopback(host) and is_local(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "fd00::1", "ollama", "gpu.local", "x.localhost"])
def test_local_hosts_may_be_plain_http(host):
    """Private, single-label and .local (design.md section 5)."""
    assert is_local(host) and not is_loopback(host)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "example.com", "169.254.169.254", "0.0.0.0", "fe80::1", "local.example.com"]
)
def test_other_hosts_are_not_local(host):
    """Public names, and the link-local range that holds metadata services."""
    assert not is_local(host)


def test_origins_keep_prefix_and_lose_the_slash():
    """A prefix stays, /v1 is the client's."""
    assert "https://x.com/api" == origin_of("https://x.com/api/")
    with pytest.raises(ValueError, match="without /v1"):
        origin_of("https://x.com/api/v1")


def test_tables_are_frozen():
    """Nobody changes settings after the start."""
    with pytest.raises(ValidationError):
        Server().port = 1


def test_unknown_prices_are_refused_by_default():
    """Never $0 (design.md section 2)."""
    assert ("refuse", 8192) == (Prices().unknown, Prices().default_max_output)
