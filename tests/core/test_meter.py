"""The meter cuts a provider that writes past its grant within 256 tokens, and never one that keeps it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.meter import SLICE, SPARSE_BYTES, Meter
from gateway.core.tokens import spread


def stream(meter: Meter, sizes: list[int], per_token: int, counts: bool = True) -> tuple[int, int]:
    """Plays chunks of so many bytes, `per_token` of them a token. Returns bytes that passed, and how often it counted.

    Slices are counted with one token too many each: the worst that slicing may do.
    """
    total = passed = counted_to = asked = 0
    for size in sizes:
        total += size
        if meter.due(total):
            asked += 1
            pending = total - counted_to
            meter.add(-(-pending // per_token) if counts else None, pending)
            counted_to = total
            if meter.over:
                return passed, asked
        passed = total
    return passed, asked


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4000), st.lists(st.integers(1, 400), min_size=1, max_size=300), st.integers(1, 12), st.booleans())
def test_a_provider_that_keeps_its_limit_is_never_cut(granted, sizes, per_token, counts):
    """Whatever the chunks and the length of its tokens: `granted` of them pass whole, with and without counts."""
    kept, left = [], granted * (per_token if counts else min(per_token, SPARSE_BYTES))
    for size in sizes:
        kept.append(min(size, left))
        left -= kept[-1]
    assert (sum(kept), True) == (stream(meter := Meter(granted), kept, per_token, counts)[0], not meter.over)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 400), st.integers(1, 8))
def test_one_that_ignores_its_limit_is_cut_within_the_slack(granted, chunk, per_token):
    """What passes is at most 256 tokens or one chunk beyond the grant (must hold 2)."""
    sizes = [chunk] * (((granted + 2000) * per_token + 20_000) // chunk)
    passed, _ = stream(meter := Meter(granted), sizes, per_token)
    assert meter.over
    assert passed / per_token <= granted + max(256, chunk)


def test_nothing_is_counted_below_the_grant():
    """Bytes bound tokens: a tokenizer is asked only when the bytes could be too many, and then rarely."""
    assert (3000, 0) == stream(Meter(3000), [10] * 300, 4)
    _, asked = stream(Meter(100_000), [10] * 39_000, 4)
    assert 1 <= asked <= 40


def test_without_a_tokenizer_it_still_stops():
    """No count: 16 bytes are at least one token, so a runaway ends, late but surely."""
    passed, _ = stream(meter := Meter(100), [100] * 1000, 4, counts=False)
    assert meter.over
    assert passed <= (100 + 256) * SPARSE_BYTES


def test_no_grant_means_no_metering():
    """Where nothing limits a call nothing is counted and nothing cut."""
    meter = Meter(None)
    assert not meter.due(10**9)
    meter.add(10**6, 10**9)
    assert not meter.over


def test_the_estimate_never_falls_below_what_was_written():
    """Charged is the count, and a token for each byte that nobody counted (design.md section 2)."""
    meter = Meter(10)
    assert 1000 == meter.estimate(1000)
    meter.add(200, 1000)
    assert 200 + 50 == meter.estimate(1050)
    meter.add(None, 50)
    assert 250 == meter.estimate(1050)


def test_where_the_tokenizer_is_a_stand_in_both_sides_err_safely():
    """A stand-in that counts 100 may be 60 of the model's tokens or 200: neither a false cut nor too small a charge."""
    meter = Meter(100, spread=spread("qwen3-32b"))
    meter.add(160, 1000)
    assert not meter.over
    assert 320 == meter.estimate(1000)
    meter.add(100, 1000)
    assert meter.over


def test_slices_of_real_text_never_count_less_than_the_whole():
    """Why `high` is an upper bound: o200k_base counts no less over slices, wherever they are cut."""
    from gateway.edge.tokenizer import FOLDER, _loaded

    encoding = _loaded(FOLDER, "o200k_base")
    assert encoding is not None
    text = "The quick brown fox: internationalisation, {'key': [1, 2.5e-3]}\n\n  über 大模型 नमस्ते " * 8
    whole = len(encoding.encode_ordinary(text))
    assert whole <= len(text.encode())
    for cut in (1, 3, 7, 50):
        pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
        assert whole <= sum(len(encoding.encode_ordinary(piece)) for piece in pieces)


# --------------------------------------------------------------------------- a grant that grows


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 2000),
    st.lists(st.integers(1, 400), min_size=1, max_size=200),
    st.integers(1, 8),
    st.lists(st.booleans(), max_size=30),
)
def test_nothing_passes_that_a_growing_grant_does_not_pay_for(granted, sizes, per_token, says):
    """Whatever is granted on top, and whenever it is refused: what went out is counted or within the grant."""
    meter, says = Meter(granted, most=10**6), iter(says)
    total = counted = 0
    for size in sizes:
        total += size
        if meter.due(total):
            meter.add(-(-(total - counted) // per_token), total - counted)
            counted = total
            if short := meter.short:
                assert 0 == short % SLICE
                granted += short if next(says, False) else 0
                meter.grow(granted)
            if meter.over:
                break
        assert meter.estimate(total) <= granted, "each byte is a token until it is counted"


def test_an_answer_within_its_grant_asks_for_nothing():
    """To the last token; one more asks for a slice, and from then on half a slice ahead."""
    meter = Meter(100, most=1000)
    meter.add(100, 400)
    assert (0, False) == (meter.short, meter.over)
    meter.add(1, 4)
    assert (SLICE, True) == (meter.short, meter.over)
    meter.grow(100 + SLICE)
    meter.add(SLICE // 2 - 1, 500)
    assert (0, False) == (meter.short, meter.over)
    meter.add(1, 4)
    assert (SLICE, False) == (meter.short, meter.over)
    meter.add(3 * SLICE, 3000)
    assert (4 * SLICE, True) == (meter.short, meter.over)


def test_a_grant_that_is_all_that_may_come_is_strict_again():
    """A provider that keeps its limit is never cut: the low count decides."""
    meter = Meter(100, spread=(60, 200), most=356)
    meter.add(150, 600)
    assert (True, True) == (meter.over, meter.grows)
    meter.grow(356)
    meter.add(200, 800)
    assert (False, False, 0) == (meter.over, meter.grows, meter.short)
    assert not Meter(356, most=356).grows and not Meter(None, most=None).grows
