"""Ranking and retrieval models, one per file."""
