"""Bundles that know users by their history.

::

    bundle.py    a bundle of a closed form, and its certificate
    graph.py     the graph ``retrieve``: the user's vector of the events, then exact search
"""
