"""A look at a log, and the FeatureSet that it suggests (`recsys init`); nothing in it is decided without a reason.

::

    look.py        a bounded sample of raw rows, of any format
    words.py       names of columns, and what they usually mean
    facts.py       what the sample says about one column
    ids.py         columns of the user, the item and the time
    label.py       where positives and negatives come from
    roles.py       what each other column is
    attributes.py  the whole log once: attributes of items and users, as files; what changes is none
    propose.py     all of it: the FeatureSet, and whether rows fit it
    document.py    the commands that follow, and the page beside the FeatureSet

A proposal is a draft for a person to read: `recsys prepare` is told columns and types, and guesses nothing.
"""
