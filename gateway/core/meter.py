"""Counts output while it streams and says when to cut: a provider that keeps its limit is never cut.

Two counts of the same text. `low` can't exceed what the provider counts (it subtracts what slicing may have added):
only it decides to cut. `high` can't fall below it (every byte that nobody counted is a token): only it is charged.
What never enters: a tokenizer (counts are handed in), text, a provider's name.
"""

from __future__ import annotations

# Without a tokenizer: bytes of one token, on the high side, so that the count errs low. o200k_base on prose of 12
# languages gives 2.5 to 11 bytes a token (Tamil the most); only long runs of blanks give more.
SPARSE_BYTES = 16


class Meter:
    """Visible output of one answer against the tokens granted for all of its choices; None: nobody limits it.

    The text is counted only when it could matter: a byte-level tokenizer emits at most one token per byte, so nothing
    is counted while the bytes stay below the grant.
    spread: percent of our count that the model's own count can be, low and high (core/tokens.py).
    """

    __slots__ = (
        "_counted",
        "_granted",
        "_high",
        "_high_percent",
        "_low_percent",
        "_raw",
        "_slack",
        "_slices",
        "_sparse",
    )

    def __init__(self, granted: int | None, slack: int = 256, spread: tuple[int, int] = (100, 100)) -> None:
        self._granted = granted
        self._slack = slack
        self._low_percent, self._high_percent = spread
        self._counted = 0  # bytes that were counted
        self._raw = 0  # tokens counted in them
        self._sparse = 0  # tokens they must have been at least, where no tokenizer answered
        self._high = 0
        self._slices = 0

    @property
    def _low(self) -> int:
        # Each cut through the text can add a token, and the provider's own count has no such cuts.
        return max(0, self._raw - self._slices) * self._low_percent // 100 + self._sparse

    def due(self, output_bytes: int) -> bool:
        """Must the pending text be counted now, before more of it may pass? `output_bytes` is all of it so far."""
        granted = self._granted
        if granted is None or output_bytes <= granted:
            return False
        pending = output_bytes - self._counted
        # Half of the slack is the smallest slice: the correction for slicing would eat the count of smaller ones.
        return pending >= self._slack // 2 and self._low + self._slices + pending > granted + self._slack

    def add(self, counted_tokens: int | None, text_bytes: int) -> None:
        """A slice was counted; None: no tokenizer answered."""
        self._counted += text_bytes
        if counted_tokens is None:
            self._sparse += text_bytes // SPARSE_BYTES
            self._high += text_bytes
            return
        self._raw += counted_tokens
        self._slices += 1
        self._high += min(text_bytes, -(-counted_tokens * self._high_percent // 100))

    @property
    def over(self) -> bool:
        """Has the provider written past its grant, beyond doubt?"""
        return self._granted is not None and self._low > self._granted

    def estimate(self, output_bytes: int) -> int:
        """The most tokens that so many bytes of output can have been."""
        return self._high + max(0, output_bytes - self._counted)
