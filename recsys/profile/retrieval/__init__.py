"""Searches of a retrieval bundle: times, rows scored and exactness, by the share of items that a filter lets pass.

::

    measure.py    searches by the index and by scoring all, in turns
    requests.py   whose searches: users of the bundle, of a store, or made ones
    cold.py       the pages of a table, given back to the system
    report.py     terminal, JSON
"""
