"""Split of samples into training, validation and test: whole moments, along time or by user.

A moment is what shares a timestamp. A list of items that a user was shown at one moment is never torn, and no
sample of a later part is older than one of an earlier part (along time), or than one of its user (``leave_last``).

::

    rule.py      the rule, and the report of what it made
    cuts.py      times between the parts, found by counting
    write.py     the samples of each part
    checks.py    parts that are empty, tiny or of one class
"""
