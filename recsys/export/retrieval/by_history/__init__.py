"""Bundles that know users by their history.

::

    bundle.py        the bundle of any such model
    certificate.py   its graphs' answers compared with the model's
    added.py         items in a search that a request brings
    search.py        what a search has before and after a model's own scores
    given.py         numbers that an item was given
    linear/          the graphs of ``linear``
    two_tower/       the graphs of ``two_tower``

To add a model: a class like ``linear.model.LinearExport``, and its line in ``bundle.HISTORY_MODELS``.
"""
