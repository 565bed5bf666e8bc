"""The ledger: budgets that are hard, as pure functions over plain values (the reference model of every store)."""
