"""Processes that serve: one or several, from their start to their end."""
