"""Negatives for a log of positives alone: for every moment at which a user took items, items that it did not take.

::

    rule.py          how many, by what; what came of it
    catalogue.py     items that existed at a moment
    popularity.py    items drawn as often as events up to a moment have them
    random.py        draws that depend on the user, the moment and the seed alone
    taken.py         items that users took
    draw.py          the lists: positives and negatives of each moment
    write.py         the samples of a log
"""
