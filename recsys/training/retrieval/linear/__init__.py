"""Training of a closed form, which takes no steps.

::

    run.py         a run: what it refuses, its folder and record
    fit.py         the fit, its checkpoint, and the metrics of what is served
    choice.py      settings chosen on validation
    item_rows.py   rows by attributes, of items that came after training
    baseline.py    the closed form beside every other model
    histories.py   weighted histories, by which it knows users
"""
