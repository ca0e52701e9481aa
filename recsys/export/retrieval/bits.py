"""Codes of few bits of items' vectors: which rows a search scores, by a list that is measured and not proven.

A row is turned by a random rotation, so that its numbers are alike, whatever the axes meant, and each becomes the
nearest of 2^B levels, its sign for B = 1. The row's product with a user's vector is estimated by that of the code with
the turned user's vector, times a scale for which the code's error has no part along the row: so the estimate is right
on average over rotations (RaBitQ: Gao and Long, SIGMOD 2024, section 3; more bits as planes of bits, as BEBR has them:
Gan et al., KDD 2023). A search puts rows in order by the estimate and a margin for its error, and scores the first by
their vectors (``recsys/operators/search/bits.cpp``).

Legend: ``R`` rows, ``D`` columns, ``P`` columns of codes, the next multiple of 64, ``B`` bits.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Float32Array, UInt8Array

TOGETHER = 64
"""The columns of codes are a multiple of it, as processors read them."""

_SEED = 19
_BLOCK = 65_536
_STEPS = {1: 1.0, 2: 0.9957, 4: 0.3352}
"""Between levels, in standard deviations: the least error for normal numbers (Max, IRE Trans. IT 1960, table II)."""


def rotation_of(width: int) -> Float32Array:
    """A random rotation of vectors of D columns into P: float32, [P, D], with columns of length 1 at right angles.

    Always the same one; a bundle has it as a table nonetheless, as machines may round otherwise.

    Args:
        width: D.
    """
    columns = -(-width // TOGETHER) * TOGETHER
    normal = np.random.Generator(np.random.PCG64(_SEED)).standard_normal((columns, columns))
    turned, triangle = np.linalg.qr(normal)
    rotation: Float32Array = (turned * np.sign(np.diag(triangle)))[:, :width].astype(np.float32)
    return rotation


def bit_codes(rows_RD: Float32Array, rotation_PD: Float32Array, *, bits: int) -> tuple[UInt8Array, Float32Array]:
    """Round turned rows to a few bits a number.

    Args:
        rows_RD: of finite numbers.
        rotation_PD: of :func:`rotation_of`.
        bits: B: 1, 2 or 4.

    Returns:
        Codes, uint8, [R, B, P / 8]: bit d % 8 of byte d / 8 of plane b is bit b of the level of column d, counted from
        the lowest; the code is 2 * level - (2^B - 1). Scales, float32, [R, 1]: a row's product with itself is the scale
        times that of its code with the turned row; 0 for a row of zeros.
    """
    rows, (columns, _) = len(rows_RD), rotation_PD.shape
    codes_RBP = np.zeros((rows, bits, columns // 8), dtype=np.uint8)
    scales_R1 = np.zeros((rows, 1), dtype=np.float32)
    half, most = 2 ** (bits - 1), float(np.finfo(np.float32).max)
    rotation = rotation_PD.astype(np.float64).T
    for begin in range(0, rows, _BLOCK):
        turned = rows_RD[begin : begin + _BLOCK].astype(np.float64) @ rotation
        squares = (turned**2).sum(axis=1)
        step = np.sqrt(squares / columns)[:, None] * _STEPS[bits]
        steps = np.floor(np.divide(turned, step, out=np.zeros_like(turned), where=step > 0))
        level = np.clip(steps + half, 0, 2 * half - 1).astype(np.uint8)
        product = ((2.0 * level - (2 * half - 1)) * turned).sum(axis=1)
        scale = np.divide(squares, product, out=np.zeros_like(squares), where=product > 0)
        scales_R1[begin : begin + _BLOCK, 0] = np.minimum(scale, most)
        for plane in range(bits):
            codes_RBP[begin : begin + _BLOCK, plane] = np.packbits(level >> plane & 1, axis=1, bitorder="little")
    return codes_RBP, scales_R1
