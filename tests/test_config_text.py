"""The texts that settings come from: where each key stands, and what a value is."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config_text import Origins, exact_nusd, finite_s, lines_of, nearest, spell, toml_value

TEXT = """
top = 1
[server]
port = 1  # a comment
"quoted" = 2
a.b = 3

[[budgets]]
name = "x"
[[budgets]]
name = "y"
[budgets.zone]
[providers."my gw"]
timeouts = { connect_s = 1 }
"""


def test_every_key_has_its_line():
    """Tables, arrays of tables, quoted and dotted keys."""
    assert {
        ("top",): 2,
        ("server",): 3,
        ("server", "port"): 4,
        ("server", "quoted"): 5,
        ("server", "a", "b"): 6,
        ("budgets", 0): 8,
        ("budgets", 0, "name"): 9,
        ("budgets", 1): 10,
        ("budgets", 1, "name"): 11,
        ("budgets", 1, "zone"): 12,
        ("providers", "my gw"): 13,
        ("providers", "my gw", "timeouts"): 14,
    } == dict(lines_of(TEXT))


@given(st.text(max_size=300))
def test_no_text_upsets_the_scan(text):
    """Whatever stands in the file, looking for lines never fails."""
    assert all(1 <= line for _, line in lines_of(text))


def test_an_unknown_place_is_the_nearest_one_above():
    """A key in an inline table is on its table's line; nothing known is the file."""
    origins = Origins("f.toml")
    origins.put(("a", "b"), "f.toml:3")
    origins.put(("a", "b"), "f.toml:9")
    assert ["f.toml:3", "f.toml"] == [origins.place(("a", "b", "c")), origins.place(("x",))]
    origins.put(("a", "b"), "environment X", again=True)
    assert "environment X" == origins.place(("a", "b"))


@given(st.decimals(min_value=0, max_value=9_000_000, places=9))
def test_amounts_are_exact(amount):
    """Every amount of whole nano-dollars is read as it is, as number and as text."""
    assert int(amount * 10**9) == exact_nusd(amount) == exact_nusd(str(amount)) == exact_nusd(f"{amount:f}")


@given(st.text(max_size=40) | st.floats() | st.booleans() | st.none())
def test_no_other_value_passes_or_breaks(value):
    """Anything else is a ValueError with a reason, never another exception; floats are no amounts."""
    with contextlib.suppress(ValueError):
        nusd = exact_nusd(value)
        assert isinstance(value, str) and abs(nusd) <= 9_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("true", True), ("0.1", Decimal("0.1")), ('["a"]', ["a"]), ("words", "words"), ("1\nx = 2", "1\nx = 2")],
)
def test_a_variable_is_read_like_toml(text, value):
    """What isn't TOML is a text; a second line can't smuggle in another key."""
    assert value == toml_value(text)


def test_keys_are_spelled_as_people_write_them():
    """Indexes in brackets, the nearest name as a question."""
    assert "budgets[0].usd" == spell(("budgets", 0, "usd"))
    assert [" Did you mean `port`?", ""] == [nearest("prot", ["port", "host"]), nearest("zzz", ["port"])]
    assert ["", ""] == [nearest("hard", ["strict", "expected", "shadow"]), nearest("eur", ["usd", "per"])]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5", None, 604_801])
def test_seconds_are_bounded(value):
    """Above zero, at most a week, a number."""
    with pytest.raises(ValueError, match="seconds"):
        finite_s(value)


def test_lines_are_counted_as_editors_do():
    """Other separators than a line feed stand within a line, a carriage return before it is none."""
    assert [(("server",), 2), (("server", "port"), 3)] == list(lines_of("# a\u2028b\x85\r\n[server]\r\nport = 1\r\n"))
