"""Models that rank all items to bundles.

::

    bundle.py    the bundle, its tables and its certificate
    graph.py     the graph ``retrieve``: exact search over all items
    measure.py   a bundle on any test pairs
"""
