"""Logs made by us, of which the best possible scores are known."""
