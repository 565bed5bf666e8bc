"""The default store: one SQLite file for all processes of a host."""

from gateway.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
