"""Users trained against the items of a bundle, whose index is kept.

::

    index.py      the index: read from a bundle, kept in the run's folder, beside a run's interactions
    trainer.py    users fitted to it
"""
