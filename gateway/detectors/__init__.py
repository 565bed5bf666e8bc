"""Was that odd? One detector a file. Pure; fails open."""
