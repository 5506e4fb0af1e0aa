"""Decisions without I/O, clocks, logging or randomness: what they need is passed in, what they want is returned."""
