"""Models in a run, as the loop takes them through their epochs.

::

    learner.py    what the loop asks of a model and its data
    pairs.py      a model of vectors of ids, which learns from pairs of a user and an item

A model that learns from histories: ``training/retrieval/two_tower/learner.py``.
"""
