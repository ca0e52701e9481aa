"""Constants that the nodes of retrieval graphs read, by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, numpy_helper

from recsys.embeddings.row_maps.id_table import IdTable
from recsys.features.hashing import HALF_MASK, PRIME

RERANKED = "reranked"
"""Rows that ``TopItemsByBits`` scores, by length of the list; none here: it scores all until an export has measured."""


def constants(**tables: IdTable) -> list[TensorProto]:
    """All constants, and the hash functions of these maps of ids."""
    values: dict[str, npt.ArrayLike] = {
        "zero": 0,
        "one": 1,
        "two": 2,
        "row_zero": [0],
        "one_long": [1],
        "row": [1, -1],
        "column": [-1, 1],
        "last_axis": [-1],
        "outer_axes": [0, -1],
        "half_mask": HALF_MASK,
        "prime": PRIME,
    }
    for name, table in tables.items():
        a1, a2, b = table.coefficients.T[:, :, None]  # [2, 1] each: one hash a row
        half = len(table.keys_TW) // 2
        values |= {
            f"{name}.of_low": (a1 - a2) % PRIME,
            f"{name}.of_folded": a2,
            f"{name}.shift": b,
            f"{name}.buckets": half,
            f"{name}.first": [[0], [half]],
        }
    floats: dict[str, npt.ArrayLike] = {
        "never": [-np.inf],
        "always": [np.inf],
        "nothing": [0.0],
        "per_halving": 1.0 / np.log(2.0),
    }
    no_floats = np.zeros((0, 1), dtype=np.float32)
    return [
        *(numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in values.items()),
        *(numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in floats.items()),
        numpy_helper.from_array(2 ** np.arange(8, dtype=np.uint8)[None], "bits"),
        numpy_helper.from_array(np.zeros((0, 0), dtype=np.int8), "no_codes"),
        numpy_helper.from_array(np.zeros((0, 2), dtype=np.float32), "no_scales"),
        numpy_helper.from_array(no_floats, "no_added"),
        numpy_helper.from_array(no_floats[:, 0], "no_additions"),
        numpy_helper.from_array(np.zeros(0, dtype=np.int64), "no_rows"),
        numpy_helper.from_array(np.zeros((0, 2), dtype=np.int64), RERANKED),
    ]


def read_by(nodes: Iterable[NodeProto]) -> set[str]:
    """Names that nodes read, those of their branches too."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            names |= read_by(attribute.g.node)
    return names
