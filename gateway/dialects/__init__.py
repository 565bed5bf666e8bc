"""One wire format a file; bytes in, `Call` and `Reply` out. Pure."""
