"""Ids to vectors.

- ``row_maps/``: ids to rows; ``sharding/``: tables over processes;
- ``tables.py``: a batch's distinct rows, looked up in TorchRec's tables; ``vectors.py``: looked-up rows to the vectors
  that a network reads; ``distinct_events.py``: the same for a batch's distinct events; ``jagged.py``: operations on
  histories of different lengths;
- ``numbers.py``: numeric features to columns;
- ``dense_twin.py``: the same tables without TorchRec, for export; ``quantize.py``: rows in fewer bits.
"""

WIDTH_UNIT = 4
"""Widths of tables are multiples of this: FBGEMM's kernels read rows four numbers at a time."""
