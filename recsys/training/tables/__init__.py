"""Tables of a run: their plan, growth and report.

::

    plan.py               a recipe's ``rows`` and ``tables`` to row maps and physical tables
    initial_rows.py       first rows, the same however tables are spread
    checkpoint_rows.py    rows of a checkpoint, without a model
    growth/               a run grown by a new log
    report.py             fullness, collisions and movement of rows

To add a row map: ``embeddings/row_maps/``; ``plan.py`` builds it from the recipe.
"""
