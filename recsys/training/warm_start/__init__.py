"""Runs that begin with the rows and layers of an older one.

::

    source.py         the older run or bundle
    apply.py          rows and layers taken into the new model
    numbers.py        its transforms of numeric features
    incremental.py    the newest samples only (``data.since``), and their row maps

To add another kind of older model: a function in ``source.py`` that fills ``WarmStartSource``.
"""
