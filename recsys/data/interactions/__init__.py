"""Pairs of users and items, for models that rank all items."""
