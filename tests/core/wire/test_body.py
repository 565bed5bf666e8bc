"""A body is read strictly, and what was checked is what is forwarded."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Undecodable
from gateway.core.wire import body as bodies
from gateway.core.wire.body import Seen, decode_strict, deeper_than, insert_field, insertion, read_object, splice

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=5)


def spelled(value: object, style: int) -> bytes:
    """One of several spellings of the same value."""
    if style == 0:
        return json.dumps(value, separators=(",", ":")).encode()
    if style == 1:
        return json.dumps(value, indent=2, ensure_ascii=True).encode()
    return b" \n" + json.dumps(value, ensure_ascii=False, separators=(" ,  ", "\t:\r\n")).encode() + b"\n"


@given(OBJECTS, st.integers(0, 2))
def test_spans_name_the_values(value, style):
    """Each span holds exactly its value, whatever the spelling of keys and blanks."""
    raw = spelled(value, style)
    fields = read_object(raw)
    assert value == {name: json.loads(raw[start:end]) for name, (start, end) in fields.spans.items()}


@given(OBJECTS, st.integers(0, 2), JSON)
def test_an_added_field_changes_nothing_else(value, style, added):
    """A field goes in at the end; everything in front of it keeps its bytes."""
    raw = spelled(value, style)
    out = insert_field(raw, "added!", json.dumps(added).encode())
    assert {**value, "added!": added} == json.loads(out)
    assert raw[: read_object(raw).end] == out[: read_object(raw).end]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"max_tokens":9,"max\\u005ftokens":1}',
        b'{"a":12,"a":1}',
        b'{"a":{"x":1},"b":2,"a":"      "}',
        b'{"a":1 , "a":1}',
        b'{"a":"x","a":"x","a":"x"}',
    ],
)
def test_repeated_keys_are_refused(raw):
    """Two parsers would disagree on a repeated key, however it is spelled (security.md section 2)."""
    with pytest.raises(Undecodable, match="repeats a key") as caught:
        read_object(raw)
    assert 400 == caught.value.status


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b'{"a":12}', b"13"), (b'{"a":1', b"1"), (b'{"a":1', b"12"), (b'{"b":1}', b"1"), (b'{"a":1}}', b"1")],
)
def test_a_value_that_stands_elsewhere_is_refused(raw, value):
    """The walk trusts no parser: what it took for a value must stand there byte for byte, up to the brace."""
    with pytest.raises(Undecodable, match="repeats a key"):
        bodies._walk(raw, 0, {"a": msgspec.Raw(value)})


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"1", b"{", b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":01}', b'{"a":1}{}', b'{"a":1,}', b'{"\xff":1}'],
)
def test_what_is_no_json_object_is_refused(raw):
    """Malformed JSON, NaN, Infinity, trailing bytes, broken UTF-8 in a key: 400."""
    with pytest.raises(Undecodable):
        read_object(raw)


def test_a_byte_order_mark_and_blanks_are_fine():
    """They stand in front of the same object, and stay in the body."""
    raw = b'\xef\xbb\xbf \r\n{"a":1} \n'
    assert b"1" == read_object(raw).get("a")
    assert b'\xef\xbb\xbf \r\n{"a":1,"b":2} \n' == insert_field(raw, "b", b"2")


@given(st.integers(0, 70), st.integers(0, 70))
def test_depth_is_counted_exactly(depth, limit):
    """Nesting in objects and arrays alike; brackets in strings are text."""
    inner = b'"]]{{\\"[[\\\\"'
    raw = inner
    for level in range(depth):
        raw = b"[1," + raw + b",[]]" if level % 2 else b'{"k":' + raw + b',"e":0}'
    assert (_depth(raw) > limit) == deeper_than(raw, limit)


def _depth(raw: bytes) -> int:
    def of(value: object) -> int:
        if isinstance(value, dict):
            return 1 + max(map(of, value.values()), default=0)
        return 1 + max(map(of, value), default=0) if isinstance(value, list) else 0

    return of(json.loads(raw))


def test_too_deep_is_refused():
    """64 levels pass, 65 don't, and thousands don't end the process."""
    bodies.check_sound(b"[" * 64 + b"]" * 64)
    with pytest.raises(Undecodable, match="deeper"):
        bodies.check_sound(b"[" * 65 + b"]" * 65)
    with pytest.raises(Undecodable, match="deeper"):
        read_object(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_broken_utf8_in_a_value_is_found():
    """Values are checked where they are new."""
    with pytest.raises(Undecodable, match="UTF-8"):
        Seen().check(b'"\xff"')


def test_seen_is_bounded():
    """It forgets the oldest part and keeps its size."""
    seen = Seen(most=3)
    for number in range(10):
        seen.check(b'"' + b"x" * 100 + b"%d" % number + b'"')
    assert 3 == len(seen)


def test_repeats_at_any_level_are_refused():
    """decode_strict finds a repeated key inside, too."""
    assert {"a": [{"b": 1}]} == decode_strict(b'{"a":[{"b":1}]}')
    with pytest.raises(Undecodable, match="'b'"):
        decode_strict(b'{"a":[{"b":1,"b":2}]}')


@pytest.mark.parametrize(("raw", "value"), [(b"5", 5), (b"1.0", 1), (b"1e3", 1000), (b"null", None)])
def test_whole_numbers_are_read(raw, value):
    """Any spelling of a whole number counts; null is absent."""
    assert value == bodies.integer(read_object(b'{"n":' + raw + b"}"), "n")


@pytest.mark.parametrize("raw", [b"-1", b"1.5", b"true", b'"5"', b"1e400", b"9007199254740992", b"9" * 40, b"[]"])
def test_other_numbers_are_refused_by_name(raw):
    """Negative, broken, boolean, text, huge: 400 naming the field (ledger.md section 13.7)."""
    with pytest.raises(Undecodable, match="`n` must be an integer"):
        bodies.integer(read_object(b'{"n":' + raw + b"}"), "n")


def test_texts_and_booleans_are_read_strictly():
    """A value of another kind is refused, never converted."""
    fields = read_object(b'{"t":"x","b":true,"n":null}')
    assert ("x", True, None, None) == (
        bodies.text(fields, "t"),
        bodies.boolean(fields, "b"),
        bodies.text(fields, "n"),
        bodies.boolean(fields, "absent"),
    )
    for read in (bodies.text, bodies.boolean):
        with pytest.raises(Undecodable):
            read(read_object(b'{"n":1}'), "n")


def test_objects_that_we_act_on_are_read_strictly():
    """A repeat inside names the field; what is no object gives None."""
    assert None is bodies.strict_inside(b"[]", "x")
    with pytest.raises(Undecodable, match="`x`"):
        bodies.strict_inside(b'{"a":1,"a":2}', "x")
    with pytest.raises(Undecodable, match="must be an array"):
        bodies.read_list(b"{}", "messages")


def test_splices_keep_the_rest():
    """Spans are replaced in order of place; overlaps are a bug; nothing to do gives the same object."""
    raw = b'{"a":1,"b":2}'
    fields = read_object(raw)
    edits = [insertion(fields, "c", b"3"), (*fields.spans["a"], b"9"), insertion(fields, "d", b"4", more=True)]
    assert b'{"a":9,"b":2,"c":3,"d":4}' == splice(raw, edits)
    assert raw is splice(raw, [])
    assert b'{"x":1}' == insert_field(b"{}", "x", b"1")
    with pytest.raises(ValueError, match="overlap"):
        splice(raw, [(0, 5, b""), (3, 6, b"")])


def test_a_field_is_put_where_it_stands_or_behind_the_last():
    """A null counts as standing there; two additions keep valid JSON."""
    fields = bodies.read_object(b'{"a" : 1,"b":null}')
    edits: list[bodies.Edit] = []
    for key in ("a", "b", "c", "d"):
        bodies.put(fields, key, b"7", edits)
    assert b'{"a" : 7,"b":7,"c":7,"d":7}' == bodies.splice(fields.body, edits)


@pytest.mark.parametrize(("raw", "filled"), [(b'{"t":[1]}', True), (b'{"t":[ ]}', False), (b'{"t":null}', False)])
def test_an_array_is_filled_where_it_holds_something(raw: bytes, filled: bool):
    """Blanks hold nothing, nor does null, nor an absent field."""
    fields = bodies.read_object(raw)
    assert (filled, False) == (bodies.is_filled(fields, "t"), bodies.is_filled(fields, "other"))
