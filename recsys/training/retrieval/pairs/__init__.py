"""Pairs of users and items in training, for models of vectors of both (``mf``, ``lightgcn``, ``ngcf``).

::

    batches.py      pairs of a step, and their loss
    negatives.py    items that a user did not take
    rows.py         rows of users and items: of their own, or shared by a row map
"""
