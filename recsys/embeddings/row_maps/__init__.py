"""Row maps: how the ids of a table become rows, one method a file.

``row_map.py``: the form of every map, in numpy, torch and files. ``registry.py``: every method by its name.
``method.py``: its interface. ``id_table.py``: ids that a map knows exactly. ``hash_ops.py``: hashes of the others.
``clusters/``: clusters of a graph of ids. ``growth.py``: maps that admit and evict ids after training.

=====================  ==========================================================================================
``vocabulary``         a row of its own for every id seen often enough
``hash``               one universal hash
``double_hash``        the sum of two hashed rows
``frequency``          a row of its own for the most frequent ids, one hash for the rest
``double_frequency``   the same with the sum of two hashed rows for the rest
``quotient_remainder`` the product of two rows, of an id number's quotient and remainder
``lsh``                ids with similar neighbours in a graph of ids share rows
``unified``            features share tables, each with a salt of its own
``graph``              ids of one cluster of a graph of ids share a row
``double_graph``       the sum of the cluster's row and a hashed one
=====================  ==========================================================================================

To add one, write a file with a function that makes a ``RowMap`` of a table (``method.TrainingIds`` says what it may ask
of the training data), add a line to ``ROW_MAPS`` in ``registry.py``, and name it in a recipe's ``rows.map``. The
smallest is ``hashing.py``. ``tests/contracts/row_map_contract.py`` then holds for it by itself, and
``tests/training/tables/test_registered_map.py`` adds one.
"""
