"""Tests of what dialects share; the tree mirrors gateway/core/wire/."""
