"""A dialect that only refuses, for tests of what stands around it."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Refusal


class Speaking:
    """Spells a refusal as its code."""

    name = "speaking"

    def refuse(self, refusal: Refusal) -> bytes:
        return refusal.code.encode()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)
