"""The tables of results: their rows, the recorded runs, and the page and pictures made of them.

::

    protocols.py    tables, their metrics, departures from published protocols
    rows.py         rows: recipe, published figures, source
    records.py      recorded runs in ``docs/results/``
    tables.py       rows with their runs as figures
    page.py         the generated parts of ``docs/results.md``

To add a row: a ``Row`` in ``rows.py`` (and a ``Table`` in ``protocols.py`` for a new table), its runs recorded
with ``recsys results add``, the page written by ``recsys results``.
"""
