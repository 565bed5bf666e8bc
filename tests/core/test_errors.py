"""Tests of core/errors.py."""

from __future__ import annotations

import pytest

from gateway.core import errors
from gateway.core.errors import ConfigError, MeterboxError, StoreFailed, Undecodable, UpstreamFailed


def test_there_are_four():
    """One root, four exceptions: what else happens is a value or a defect (style.md, Errors)."""
    assert {ConfigError, Undecodable, UpstreamFailed, StoreFailed} == set(MeterboxError.__subclasses__())
    assert {"ConfigError", "MeterboxError", "StoreFailed", "Undecodable", "UpstreamFailed"} == {
        name for name, value in vars(errors).items() if isinstance(value, type)
    }


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ConfigError(), 500),
        (Undecodable(), 400),
        (Undecodable("thinking doesn't fit", status=402), 402),
        (UpstreamFailed(), 502),
        (UpstreamFailed(kind="reset"), 502),
        (UpstreamFailed(kind="timeout"), 504),
        (StoreFailed(), 503),
    ],
)
def test_each_carries_the_status_to_answer_with(failure: MeterboxError, status: int):
    """Whoever answers needs no table; what an instance says doesn't leak into the next one."""
    assert status == failure.status
    assert 502 == UpstreamFailed.status and 400 == Undecodable.status


@pytest.mark.parametrize("kind", MeterboxError.__subclasses__())
def test_the_docstring_is_the_default_message(kind: type[MeterboxError]):
    """An exception without words still says a sentence; with words it says those."""
    assert (kind.__doc__ or "").strip() == str(kind())
    assert "why" == str(kind("why"))


def test_a_failure_counts_as_sent_unless_it_is_known_otherwise():
    """`sent` False makes a call free, so it is never the default (ledger.md section 6)."""
    assert (True, "reset") == (UpstreamFailed().sent, UpstreamFailed().kind)
    assert UpstreamFailed(kind="connect", sent=False).sent is False
    assert "invalid_request" == Undecodable().code
