"""Pairs of users and items, for models that rank all items.

::

    pairs.py       pairs with splits, from text files
    positives.py   pairs of a log, prepared or built in
    histories.py   the events of users before a part begins
    ids.py         ids and names of users and items
    candidates.py  short lists of candidates, beside which one item is ranked
    sequences.py   sequences of items, split leave-one-out
    datasets.py    the sets that recipes name

To add a set in the text format: its folder in ``datasets._FOLDERS``.
"""
