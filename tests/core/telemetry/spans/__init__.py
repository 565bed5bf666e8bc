"""Claims about spans."""
