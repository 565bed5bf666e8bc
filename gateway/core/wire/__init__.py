"""What dialects share: bodies read and spelled anew, streams read while they pass."""
