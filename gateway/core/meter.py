"""Counts output while it streams and says when to cut: a provider that keeps its limit is never cut.

Two counts of the same text. `low` can't exceed what the provider counts (it subtracts what slicing may have added):
only it decides to cut. `high` can't fall below it (every byte that nobody counted is a token): only it is charged.
Where the hold grows with the answer (mode `expected`), `high` decides: nothing may pass that the hold doesn't pay for.
What never enters: a tokenizer (counts are handed in), text, a provider's name.
"""

from __future__ import annotations

# Without a tokenizer: bytes of one token, on the high side, so that the count errs low. o200k_base on prose of 12
# languages gives 2.5 to 11 bytes a token (Tamil the most); only long runs of blanks give more.
SPARSE_BYTES = 16
# What a growing hold grows by at least (design.md section 2).
SLICE = 256


class Meter:
    """Visible output of one answer against the tokens granted for all of its choices; None: nobody limits it.

    The text is counted only when it could matter: a byte-level tokenizer emits at most one token per byte, so nothing
    is counted while the bytes stay below the grant.
    spread: percent of our count that the model's own count can be, low and high (core/tokens.py).
    most: the tokens that the grant may grow to while the answer streams; None: it stays what it is.
    """

    __slots__ = (
        "_ahead",
        "_counted",
        "_granted",
        "_grows",
        "_high",
        "_high_percent",
        "_low_percent",
        "_most",
        "_raw",
        "_slack",
        "_slices",
        "_sparse",
    )

    def __init__(
        self, granted: int | None, slack: int = SLICE, spread: tuple[int, int] = (100, 100), most: int | None = None
    ) -> None:
        self._granted = granted
        self._most = most
        self._grows = granted is not None and most is not None and granted < most
        self._slack = slack
        # An answer as long as expected asks for nothing; one that is longer asks ahead, lest each chunk be counted.
        self._ahead = 0
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
        if self._grows:
            return self.estimate(output_bytes) > granted
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
    def short(self) -> int:
        """By how many tokens the grant should grow before more may pass: whole slices, 0 while there is room."""
        if not self._grows or self._granted is None:
            return 0
        missing = self._high + self._ahead - self._granted
        return -(-missing // SLICE) * SLICE if missing > 0 else 0

    @property
    def grows(self) -> bool:
        """May the grant still become more?"""
        return self._grows

    def grow(self, granted: int) -> None:
        """What is granted by now. Once it is all that the answer may ever have, a provider that keeps its limit is
        never cut, as where nothing grows."""
        self._granted = granted
        self._grows = self._most is not None and granted < self._most
        self._ahead = SLICE // 2

    @property
    def over(self) -> bool:
        """Has the provider written past its grant, beyond doubt? While it grows: past what is surely paid for?"""
        if self._granted is None:
            return False
        return (self._high if self._grows else self._low) > self._granted

    def estimate(self, output_bytes: int) -> int:
        """The most tokens that so many bytes of output can have been."""
        return self._high + max(0, output_bytes - self._counted)
