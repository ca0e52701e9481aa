"""Rewrites of exported graphs, each with an identity test.

::

    simplify.py            fewer and faster standard operators
    functions.py           parts that ``recsys.operators`` computes in one node
    extract_function.py    nodes cut out of a graph as a function

To add a rewrite: a function in ``simplify.py`` called by ``simplify``, or one in ``functions.py`` called where the
graph is made (``graphs/files.py``, ``int8.py``) with its operator in ``recsys/operators``; and a test in
``tests/export/rewrites`` that the graph answers as before.
"""
