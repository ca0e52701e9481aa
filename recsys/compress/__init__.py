"""Memory against quality, over row maps and budgets.

::

    sweep.py         one recipe trained with several maps and budgets
    ranking.py       a ranking recipe in it
    retrieval.py     a recipe that ranks all items in it
    comparison.py    settings, measurements, and the choice among them
    report.py        the comparison as a picture, a table and JSON

To add a number to the comparison: a metric in ``Shown`` of its kind of run, or a field of ``comparison.Measurement``
and ``sweep.Outcome`` and a column of ``report.headers``; raise ``sweep.VERSION`` if older results lack it.
"""
