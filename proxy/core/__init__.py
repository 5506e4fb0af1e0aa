"""Decisions without I/O, clocks, logging or randomness: facts are passed in, effects are returned."""
