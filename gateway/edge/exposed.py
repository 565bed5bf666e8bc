"""What `/metrics` answers: the text that the process of the projections rendered, as it lies in its file.

Invariant: a file that is old or absent is a refusal with its reason, never an old truth or an empty page; it is read on
a thread, whole, up to a limit. What never enters: a metric.
"""

from __future__ import annotations

from pathlib import Path

from gateway.edge.api_door import HEADERS, Wrong

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OLD_S = 60.0  # it is rendered every 10 s, also when nothing happens
MOST_BYTES = 16 << 20  # 2,000 series take some 300 KB


def page(file: Path | None, now: float) -> tuple[bytes, dict[str, str]]:
    """The text and its headers. Raises Wrong (503) with what is the matter; blocks on the disk."""
    if file is None:
        raise _not_now("[projections.metrics] enabled = false.")
    try:
        with file.open("rb") as text:
            age_s = now - file.stat().st_mtime
            body = text.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise _not_now("Nothing was rendered yet; the log says whether the process of the projections runs.") from None
    except OSError as error:
        raise _not_now(f"The rendered text can't be read ({error.strerror}).") from error
    if age_s > OLD_S:
        raise _not_now(f"What was rendered last is {age_s:.0f} s old; the log says why (projections_died, _failed).")
    if len(body) > MOST_BYTES:
        raise _not_now(f"The rendered text has more than {MOST_BYTES} bytes.")
    return body, {**HEADERS, "Content-Type": CONTENT_TYPE}


def _not_now(why: str) -> Wrong:
    return Wrong(503, "metrics_unavailable", why, {"Retry-After": "10"})
