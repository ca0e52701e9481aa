"""Codes of items' vectors: 8 bits a number, with a scale and a bound of the error for each row.

A search reads the codes, a quarter of the bytes, and of the vectors only the rows whose bounds reach the best
(``recsys/operators/search/top_items.cpp``). Row x is ``scale * code + dx``; with the error ``|dx|`` its product with a
user's vector q is known to within ``|dx| |q|``, so that the list is proven to be that of scoring all.

Legend: ``R`` rows, ``D`` columns, ``P`` columns of codes, the next multiple of 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from recsys.arrays import Float32Array, Int8Array

Coarse = Literal["int8", "1bit", "2bit", "4bit", "none"]
"""Codes that a retrieval bundle has of its items; those of :mod:`recsys.export.retrieval.bits` are bits."""

BITS: Mapping[Coarse, int] = {"1bit": 1, "2bit": 2, "4bit": 4}
"""Bits a number of the codes whose lists are measured and not proven."""

TOGETHER = 16
"""The columns of codes are a multiple of it, as processors read them."""

_MOST = 127
_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_BLOCK = 65_536


def item_codes(rows_RD: Float32Array) -> tuple[Int8Array, Float32Array]:
    """Round rows to 8 bits.

    Args:
        rows_RD: of finite numbers.

    Returns:
        Codes from -127 to 127, int8, [R, P], zeros in the columns beyond D; scale and error, float32, [R, 2]. The error
        is at least the norm of what is missing; a row too small for a scale has codes of 0, and its norm as error.
    """
    rows, width = rows_RD.shape
    codes_RP = np.zeros((rows, -(-width // TOGETHER) * TOGETHER), dtype=np.int8)
    scales_R2 = np.empty((rows, 2), dtype=np.float32)
    for begin in range(0, rows, _BLOCK):
        block = rows_RD[begin : begin + _BLOCK].astype(np.float64)
        scale = (np.abs(block).max(axis=1) / _MOST).astype(np.float32)
        scale[scale < _LEAST_SCALE] = 0.0
        divisor = np.where(scale > 0, scale, np.float32(1)).astype(np.float64)
        codes = np.where(scale[:, None] > 0, np.clip(np.rint(block / divisor[:, None]), -_MOST, _MOST), 0.0)
        error = np.linalg.norm(block - scale.astype(np.float64)[:, None] * codes, axis=1)
        codes_RP[begin : begin + _BLOCK, :width] = codes
        scales_R2[begin : begin + _BLOCK, 0] = scale
        with np.errstate(over="ignore"):  # infinity is a bound
            up = np.nextafter((error * (1 + 1e-6)).astype(np.float32), np.float32(np.inf))
        scales_R2[begin : begin + _BLOCK, 1] = np.where(error > 0, up, 0)
    return codes_RP, scales_R2
