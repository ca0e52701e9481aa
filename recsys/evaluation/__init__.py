"""Metrics of a run, of its segments, and of two runs beside each other."""
