"""Secrets: nothing that prints, formats, compares or pickles one gives its text away."""

import copy
import pickle

import pytest

from gateway.core.secret import Secret

TEXT = "sk-canary-0123456789"


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r:>20}".format, lambda s: f"{s}", lambda s: f"{[s]}"])
def test_no_way_of_printing_shows_the_text(show):
    """Whatever way a secret is printed, three stars come out (security.md, keys)."""
    shown = show(Secret(TEXT))
    assert TEXT not in shown
    assert "***" in shown


def test_the_text_is_given_only_on_purpose():
    """`reveal` is the one way to the text."""
    assert TEXT == Secret(TEXT).reveal()


def test_secrets_compare_by_their_text():
    """Equal texts are equal secrets, and nothing else equals one."""
    assert Secret(TEXT) == Secret(TEXT)
    assert hash(Secret(TEXT)) == hash(Secret(TEXT))
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret(TEXT) != TEXT


def test_length_counts_bytes():
    """A least length of 32 bytes is about bytes, not characters."""
    assert 4 == len(Secret("éé"))


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_not_copied_elsewhere(take):
    """A secret can't be pickled into a file, a cache or another process by accident."""
    with pytest.raises(TypeError):
        take(Secret(TEXT))
