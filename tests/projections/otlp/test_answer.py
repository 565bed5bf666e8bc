"""What a destination's answer means for a batch."""

from __future__ import annotations

import pytest

from gateway.core.errors import UpstreamFailed
from gateway.projections.otlp.answer import LONGEST_WAIT_S, Never, of_status, partial, wait_of


@pytest.mark.parametrize("status", [400, 413])
def test_only_what_speaks_of_the_batch_is_final(status):
    """It can't succeed as it is."""
    assert isinstance(of_status(status, None, 0.0), Never)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 408, 415, 422, 429, 500, 502, 503, 504])
def test_what_an_operator_or_time_may_heal_comes_again(status):
    """The same batch, after a pause."""
    with pytest.raises(UpstreamFailed, match=str(status)):
        of_status(status, None, 0.0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [(None, None), ("7", 7.0), (" 0.5 ", 0.5), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None),
     ("1e9", LONGEST_WAIT_S), ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0), ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(said, expected):
    """RFC 9110 section 10.2.3; nonsense says nothing, and an hour is the most."""
    assert expected == wait_of(said, 1_800_000_000.0)


def test_it_goes_with_the_failure():
    """The driver waits that long."""
    with pytest.raises(UpstreamFailed) as caught:
        of_status(429, "12", 0.0)
    assert 12.0 == caught.value.wait_s


def test_a_rejection_is_said_in_a_short_line():
    """A destination's words may be long, or hold line breaks."""
    taken = partial(3, "bad\nspans " + "x" * 5000)
    assert (3, 200, True) == (taken.rejected, len(taken.why), "\n" not in taken.why)
    assert 0 == partial(-5, "").rejected
