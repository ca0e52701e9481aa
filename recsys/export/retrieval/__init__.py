"""Retrieval models to bundles."""
