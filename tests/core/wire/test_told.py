"""Usage that tells nothing is never free."""

from __future__ import annotations

import pytest

from gateway.core.types import Usage
from gateway.core.wire.told import tells_all


@pytest.mark.parametrize(
    ("usage", "output_bytes", "expected"),
    [
        (Usage(10, 5), 20, True),
        (Usage(10, 0), 0, True),
        (Usage(0, 5), 20, True),  # a prompt that some local servers had cached whole
        (Usage(10, 0), 20, False),
        (Usage(0, 0), 0, False),
        (Usage(0, 0), 20, False),
        (Usage(None, 5), 20, False),
        (Usage(10, None), 20, False),
        (Usage(), 0, False),
    ],
)
def test_zeros_and_gaps_beside_output_make_no_bill(usage: Usage, output_bytes: int, expected: bool) -> None:
    """ledger.md P3: it never guesses zero (security.md section 1, billing evasion)."""
    assert expected is tells_all(usage, output_bytes)


def test_an_embedding_needs_no_output() -> None:
    """Its usage tells the input alone."""
    assert tells_all(Usage(10), 0, embeds=True)
    assert tells_all(Usage(0), 0, embeds=True)
    assert not tells_all(Usage(), 0, embeds=True)
