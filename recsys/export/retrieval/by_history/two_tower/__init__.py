"""Bundles of ``two_tower``.

::

    model.py     the trained model: its tables, and what the graphs must answer
    modules.py   the two sides as modules that are traced
    graph.py     the graph ``retrieve``: the user's side, then exact search by the best of the interests
"""
