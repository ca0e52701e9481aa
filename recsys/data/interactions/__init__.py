"""Pairs of users and items, for models that rank all items.

::

    pairs.py       pairs with splits, from text files
    from_log.py    pairs of a rating log
    positives.py   pairs of a log that `recsys prepare` wrote
    ids.py         ids and names of users and items
    datasets.py    the sets that recipes name

To add a set in the text format: its folder in ``datasets._FOLDERS``.
"""
