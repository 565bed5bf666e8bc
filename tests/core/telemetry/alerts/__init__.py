"""Claims about alerts."""
