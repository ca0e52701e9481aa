"""Memory against quality, over row maps and budgets.

::

    sweep.py         one recipe trained with several maps and budgets
    comparison.py    settings, measurements, and the choice among them
    report.py        the comparison as a picture, a table and JSON

To add a number to the comparison: a field of ``comparison.Measurement``, filled in ``sweep._run``, and a column of
``report.HEADERS``; raise ``sweep.VERSION`` if older results lack it.
"""
