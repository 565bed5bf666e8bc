"""Tests; the tree mirrors gateway/."""
