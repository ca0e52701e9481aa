"""Pairs of users and items, for models that rank all items.

::

    pairs.py       pairs with splits, from text files
    positives.py   pairs of a log, prepared or built in
    histories.py   the events of users before a part begins
    ids.py         ids and names of users and items
    datasets.py    the sets that recipes name

To add a set in the text format: its folder in ``datasets._FOLDERS``.
"""
