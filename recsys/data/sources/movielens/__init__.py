"""MovieLens-1M: its files, and the ways to split it."""
