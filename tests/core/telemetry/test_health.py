"""Rows of health: told by one, read by another."""

from gateway.core.telemetry.health import Health, State


def test_what_is_told_stays_until_it_is_told_anew():
    """Each teller changes its own fields; the rest of the row stays."""
    health = Health()
    health.tell("otlp-a", behind=7, oldest_at=3.0)
    health.tell("otlp-a", sent=2)
    assert State(behind=7, oldest_at=3.0, sent=2) == health.of("otlp-a")
    assert State() == health.of("nobody") and ["otlp-a"] == list(health.all())


def test_a_reader_has_a_copy():
    """What a reader holds doesn't change under its hands."""
    health = Health()
    health.tell("b", behind=1)
    health.tell("a", behind=2)
    seen = health.all()
    health.tell("a", behind=3)
    assert [("a", 2), ("b", 1)] == [(name, state.behind) for name, state in seen.items()]
