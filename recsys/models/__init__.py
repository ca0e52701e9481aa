"""Ranking and retrieval models, one a file, and the registry that names them.

``registry.py``: every model by the name that ``model.kind`` takes. ``ranking``: models that score a request's
candidates. ``retrieval``: models that rank all items.
"""
