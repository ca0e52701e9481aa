"""Models that rank all items to bundles.

::

    bundle.py          the bundle, its tables and its certificate
    graph.py           the graph ``retrieve``: exact search over all items
    top_items.py       its last step, the best of the rows that are allowed, as ONNX functions
    codes.py           8-bit codes of the items' vectors, with bounds of their errors
    bits.py            codes of 1, 2 or 4 bits, by which lists are measured and not proven
    rerank.py          how many rows a search by such codes scores
    sorted_search.py   places in an ascending list, in standard operators
    constants.py       constants of the graphs
    by_history/        bundle and graph for users who are known by their history
    index.py           certificate of the index: its lists beside those of scoring all
    lists.py           the measurements that a manifest keeps
    segments.py        popularity by a feature of users, for those who are not known
    similar.py         the graph ``similar``: items whose vectors are near to those of seeds
    measure.py         a bundle on any test pairs
"""
