"""A live view of a running server, from its metrics page: ``recsys top``.

- ``page.py``: the page, found and read. ``figures.py``: two readings to rates and percentiles.
- ``screen.py``: the figures drawn for a terminal. ``watch.py``: again and again, also while the server is away.

A new figure is a field of ``figures.Figures`` or of one of its rows, and a column or line of ``screen.py``.
"""
