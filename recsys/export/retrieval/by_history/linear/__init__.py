"""Bundles of ``linear``.

::

    model.py        the trained model: its tables, and what the graphs must answer
    graph.py        the graph ``retrieve``: the sum of the history's rows, then exact search
    item_graph.py   the graph ``item``: rows of items by their attributes
"""
