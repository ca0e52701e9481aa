"""Requests to a running server.

``users.py``: rank, recommend, retrieve. ``related.py``: similar, trending, audience. ``withdraw.py``: withdraw.
``shared.py``: their options and arguments, and how a list is printed.
"""
