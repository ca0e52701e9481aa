"""Graphs of a ranking bundle: user, encode, rank.

::

    modules.py    the graphs as torch modules, and examples of their inputs
    files.py      modules to ONNX files, with tables beside them
    encode_digest.py    a digest of what sums of events depend on
"""
