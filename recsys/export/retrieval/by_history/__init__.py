"""Bundles that know users by their history.

::

    bundle.py        a bundle of a closed form
    certificate.py   its graphs' answers compared with the model's
    graph.py         the graph ``retrieve``: the user's vector of the events, then exact search
    added.py         items in it that a request brings
    item_graph.py    the graph ``item``: rows of items by their attributes
"""
