"""Ids to vectors."""

WIDTH_UNIT = 4
"""Widths of tables are multiples of this: FBGEMM's kernels read rows four numbers at a time."""
