"""Tests of what reads the journal and tells others."""
