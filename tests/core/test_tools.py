"""Claims about tool spans and about what counts as a failed tool."""

from __future__ import annotations

import pytest

from gateway.core.tools import looks_like_error


@pytest.mark.parametrize(
    "text",
    [
        "Error: no such file",
        "error",
        "  \n ERROR something",
        "Error\nline two",
        "Exception: boom",
        "exception: boom",
        "Traceback (most recent call last):\n  File",
        "bash: foo: command not found",
        "/bin/sh: line 1: foo: command not found\nmore",
        '{"error": "user not found"}',
        '{"is_error": true, "content": "x"}',
        '{"isError": 1}',
        '{"v": NaN, "error": "x"}',
        '{"\\u0065rror": "x"}',
    ],
)
def test_a_failed_tool_is_recognised(text: str) -> None:
    """Each spelling of http.md section 4 counts as an error."""
    assert looks_like_error(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Errors were not found",
        "error_count: 0",
        "No error",
        "ErrorCode 3",
        "Exceptional work",
        "fine\nbash: foo: command not found",
        "the words command not found",
        '{"error": null}',
        '{"error": ""}',
        '{"error": false, "is_error": 0}',
        '{"result": {"error": "inner"}}',
        '["error"]',
        '{"error": "cut',
        '{"a": ' * 5000 + "rror",
    ],
)
def test_a_plain_result_is_no_error(text: str) -> None:
    """A word that merely contains `error`, an inner field or broken JSON is no failure."""
    assert looks_like_error(text) is False
