"""Read the journal and tell others, each with its own cursor, outside of the proxy loop."""
