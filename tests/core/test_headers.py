"""core/headers.py: everything goes on, except what may not."""

from __future__ import annotations

import pytest

from gateway.core.errors import Undecodable
from gateway.core.headers import take, to_client, to_provider

KEPT = (
    ("content-type", "application/json"),
    ("user-agent", "agent/1"),
    ("accept", "*/*"),
    ("anthropic-beta", "a"),
    ("anthropic-beta", "b"),
    ("traceparent", "00-x"),
    ("x-stainless-lang", "python"),
    ("helicone-session-id", "s"),
    ("idempotency-key", "i"),
    ("via", "1.1 x"),
)
DROPPED = (
    ("connection", "keep-alive, X-Hop"),
    ("x-hop", "1"),
    ("keep-alive", "timeout=5"),
    ("te", "trailers"),
    ("trailer", "x"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("proxy-authorization", "Basic x"),
    ("proxy-connection", "x"),
    ("host", "h"),
    ("content-length", "2"),
    ("cookie", "c"),
    ("accept-encoding", "gzip"),
    ("x-forwarded-for", "1.2.3.4"),
    ("x-forwarded-proto", "http"),
    ("forwarded", "for=1"),
    ("expect", "100-continue"),
    ("x-meterbox-run-id", "r"),
    ("x-meterbox-key", "k"),
    ("x-meterbox-anything", "k"),
)
OWN = (("authorization", "Bearer a"), ("x-api-key", "b"), ("api-key", "c"), ("x-goog-api-key", "d"))


def test_a_request_goes_on_without_what_belongs_to_this_hop() -> None:
    """Order and repeats stay; nothing is added."""
    mixed = [*DROPPED, *KEPT, *OWN]
    assert [*KEPT, *OWN] == to_provider(mixed, replaces_credentials=False)


@pytest.mark.parametrize("head", DROPPED, ids=lambda head: head[0])
def test_each_header_of_this_hop_is_dropped_by_itself(head: tuple[str, str]) -> None:
    """No rule leans on another one."""
    if head[0] != "x-hop":
        assert [] == to_provider([head], replaces_credentials=False)


def test_the_clients_credentials_stay_behind_where_the_section_has_its_own() -> None:
    """All places that a provider might look at."""
    assert list(KEPT) == to_provider([*KEPT, *OWN], replaces_credentials=True)


def test_an_answer_goes_back_without_cookies_software_and_cors() -> None:
    """What a browser would act on is ours to say."""
    kept = [("content-type", "text/event-stream"), ("x-request-id", "1"), ("x-request-id", "2"), ("retry-after", "3")]
    gone = [
        ("set-cookie", "a=b"),
        ("server", "cloudflare"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("content-length", "3"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("proxy-authenticate", "x"),
        ("x-meterbox-cost-usd", "0"),
        ("x-content-type-options", "none"),
    ]
    assert [*kept, ("x-content-type-options", "nosniff")] == to_client([*gone, *kept])


def test_names_are_lowered_and_values_kept() -> None:
    """HTTP's names have no case; values are the client's own."""
    assert (("x-one", " A "), ("x-two", "ü")) == take([("X-One", " A "), ("x-TWO", "ü")])


@pytest.mark.parametrize(
    "items",
    [
        [("x-a", "\udcff")],
        [("x-a", "plain"), ("x-b", "ü\udc80")],
        [("X-Meterbox-Run-Id", "a"), ("x-meterbox-run-id", "a")],
        [("x-meterbox-limit-usd", "1"), ("x-b", "c"), ("x-meterbox-limit-usd", "2")],
    ],
)
def test_values_that_are_not_utf_8_and_repeated_control_headers_are_refused(items: list[tuple[str, str]]) -> None:
    """Two readings of a header are none."""
    with pytest.raises(Undecodable):
        take(items)


def test_other_headers_may_repeat() -> None:
    """Only ours decide something."""
    assert 3 == len(take([("x-a", "1"), ("X-A", "2"), ("x-meterbox-agent", "a")]))
