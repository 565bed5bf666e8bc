"""Claims about the OTLP projection."""
