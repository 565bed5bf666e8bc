"""Asks apprise, before a start or a reload, whether it knows the addresses of the channels.

Invariant: in a process that ends, since its hundred services take 35 MB; what it says of an address is never shown, it
may quote a credential. What never enters: a message to anybody.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.core.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Settings

MOST_S = 30.0
_ASK = """
import json, sys, warnings
warnings.simplefilter("ignore")
import apprise
asked = json.load(sys.stdin)
json.dump([apprise.Apprise.instantiate(one, suppress_exceptions=True) is not None for one in asked], sys.stdout)
"""


def check_addresses(settings: Settings) -> None:
    """Raises ConfigError, with file, line and channel, for an address that nothing could be sent to."""
    settings.check_channels(_known)


def _known(addresses: Sequence[str]) -> list[bool]:
    command = [sys.executable, "-P", "-c", _ASK]
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            command, input=json.dumps(list(addresses)).encode(), capture_output=True, check=True, timeout=MOST_S
        )
        found: list[bool] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        raise ConfigError("apprise can't be asked about the channels: pip install -U 'meterbox[alerts]'") from None
    return found
