"""MovieLens-1M: its files, and the ways to split it.

::

    files.py             the files, original or chronological
    prepare.py           found or fetched, split as ReChorus 2.0 does, prepared
    temporal.py          the last tenth of each user's events for test
    ctr.py               clicks without history, split at random
    long_histories.py    users with long histories

To add a split: a function from ``RawLog`` to ``prepare.LogSplit``, given to ``prepare_movielens`` in
``data/datasets.py``.
"""
