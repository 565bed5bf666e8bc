"""Claims about the SQLite store: its thread, its file, its lock."""
