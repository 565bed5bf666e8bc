"""Does a provider's usage tell enough to make a bill of it?

Invariant: what is missing, no count, or all zeros beside output that was seen is never free (ledger.md section 1, P3).
What never enters: a wire format, a price.
"""

from __future__ import annotations

from gateway.core.types import Usage


def tells_all(usage: Usage, output_bytes: int, embeds: bool = False) -> bool:
    """Can a bill be made of it? A count that can't be read is None here. `output_bytes`: of output that was seen."""
    came_in, made = usage.input_tokens, usage.output_tokens
    if embeds:
        return came_in is not None  # Voyage bills an embedding with 0 tokens (recorded)
    if came_in is None or made is None:
        return False
    return bool(made) or (came_in > 0 and not output_bytes)
