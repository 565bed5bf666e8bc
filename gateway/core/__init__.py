"""Pure rooms: the grammar that all other rooms share. No I/O, no clock, no chance."""
