"""Every method by the name that ``rows.map`` takes. A new one is its file, a line here, and a recipe."""

from __future__ import annotations

from functools import partial

from recsys.embeddings.row_maps.frequency import frequency_map
from recsys.embeddings.row_maps.graph import graph_map
from recsys.embeddings.row_maps.hashing import hash_map
from recsys.embeddings.row_maps.lsh import lsh_map
from recsys.embeddings.row_maps.method import Method, per_table
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder_map
from recsys.embeddings.row_maps.unified import unified_maps
from recsys.embeddings.row_maps.vocabulary import vocabulary_map

ROW_MAPS: dict[str, Method] = {
    "vocabulary": per_table(vocabulary_map),
    "hash": per_table(partial(hash_map, functions=1)),
    "double_hash": per_table(partial(hash_map, functions=2)),
    "frequency": per_table(partial(frequency_map, functions=1)),
    "double_frequency": per_table(partial(frequency_map, functions=2)),
    "quotient_remainder": per_table(quotient_remainder_map),
    "lsh": per_table(lsh_map),
    "unified": unified_maps,
    "graph": per_table(partial(graph_map, double=False)),
    "double_graph": per_table(partial(graph_map, double=True)),
}
"""A map's ``kind`` is the name here."""
