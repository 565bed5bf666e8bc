"""Remember, atomically: one backend a file, one conformance suite for all."""
