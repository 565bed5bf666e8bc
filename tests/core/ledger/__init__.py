"""Tests of the ledger; the tree mirrors gateway/core/ledger/."""
