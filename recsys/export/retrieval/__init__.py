"""Models that rank all items to bundles.

::

    bundle.py     the bundle, its tables and its certificate
    graph.py      the graph ``retrieve``: exact search over all items
    by_history/   both, for users who are known by their history
    lists.py      the measurements that a manifest keeps
    segments.py   popularity by a feature of users, for those who are not known
    measure.py    a bundle on any test pairs
"""
