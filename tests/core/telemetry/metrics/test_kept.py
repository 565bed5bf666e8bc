"""A few values that outlive a process."""

from __future__ import annotations

from gateway.core.telemetry.metrics.kept import Kept


def test_the_oldest_goes_first_in_memory_and_in_the_rows():
    """Never more than `most`."""
    kept = Kept("k/", int, 2)
    rows: dict[str, bytes | None] = {}
    for number in range(4):
        kept.put(f"n{number}", number)
        rows |= kept.changed()
    kept.put("n2", 22)
    kept.put("n9", 9)
    assert (None, 22, 9) == (kept.get("n3"), kept.get("n2"), kept.get("n9"))
    rows |= kept.changed()
    assert {"k/n2", "k/n9"} == {key for key, row in rows.items() if row is not None}
    assert {} == kept.changed()
    assert 2 == len(kept)


def test_rows_in_any_order_bring_back_who_is_oldest():
    """A notebook gives them by name."""
    kept = Kept("k/", list[str], 3)
    for name in ("z", "m", "a"):
        kept.put(name, [name])
    again = Kept("k/", list[str], 3, sorted((key, row) for key, row in kept.changed().items() if row is not None))
    again.put("b", ["b"])
    assert [None, ["m"], ["a"], ["b"]] == [again.get(name) for name in ("z", "m", "a", "b")]


def test_what_is_dropped_is_forgotten_in_the_rows_too():
    """And what was never there changes nothing."""
    kept = Kept("k/", int, 3)
    kept.put("a", 1)
    kept.changed()
    kept.drop("a")
    kept.drop("b")
    assert {"k/a": None} == kept.changed()
