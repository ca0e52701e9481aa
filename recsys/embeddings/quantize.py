"""Smaller rows for serving: float16, or 8 or 4 bits a number with a scale and a bias of each row's own.

A row of ``int8`` or ``int4`` is one run of bytes, codes first, then scale and bias as float32:
``value = code * scale + bias``. Everything a lookup needs of a row so lies on one memory page, which is what
a table larger than memory waits for; beside it, unpacking the two floats costs nothing that can be measured.
The ``int8`` row is FBGEMM's "fused 8-bit row-wise" format byte for byte.

``int8`` takes scale and bias from the row's smallest and largest value. At 4 bits that wastes codes on the
extremes, so ``int4`` also looks for a narrower range with a smaller squared error (Guan et al., "Post-Training
4-bit Quantization on Embedding Tables", arXiv 1911.02079, section 3), by the search of :func:`_narrower`.

Legend: ``V`` rows, ``D`` width, ``B`` bytes of a row, ``N`` rows looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.arrays import Float32Array, Float64Array, Int64Array
from recsys.errors import InvalidInputError, nearest

Kind = Literal["none", "fp16", "int8", "int4"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OTHERS = "*"
"""In a mapping from tables to kinds: the tables that are not named."""

Floats = npt.NDArray[Any]

SMALLEST = 2.0**-100
"""Scales are 0 or at least this, and smaller biases become 0: then no graph meets a subnormal number, which
some machines flush to zero."""

LARGEST = 2.0**126
"""Values beyond it are refused: a row's range must itself be a float32."""

_BITS = {"int8": 8, "int4": 4}
_TAIL = 8
_CHUNK_VALUES = 1 << 20
_CUTS = (0.0, 0.05, 0.1, 0.15)
"""Part of the range that :func:`_narrower` cuts off at either end; the paper's search goes as far."""
_REFITS = 2


@dataclass(frozen=True, kw_only=True)
class QuantizedTable:
    """A table as it is stored.

    Attributes:
        kind: ``none`` and ``fp16``: ``rows`` are the numbers; ``int8``, ``int4``: bytes.
        rows: [V, D] float32 or float16, or [V, B] uint8.
        width: D.
    """

    kind: Kind
    rows: npt.NDArray[Any]
    width: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole table, scales included."""
        return int(self.rows.nbytes)

    def lookup(self, index_N: Int64Array) -> Float32Array:
        """The rows of that index, float32, [N, D]; reads no other."""
        rows = self.rows[index_N]
        if self.kind not in _BITS:
            return rows.astype(np.float32)
        codes, scale, bias = _unpack(rows, kind=self.kind, width=self.width)
        values: Float32Array = codes.astype(np.float32) * scale + bias
        return values

    def dequantize(self) -> Float32Array:
        """Every row, float32, [V, D]."""
        values = np.empty((len(self.rows), self.width), dtype=np.float32)
        for part in _chunks(values.shape):
            values[part] = self.lookup(np.arange(part.start, part.stop))
        return values


def quantize_rows(rows_VD: Float32Array, kind: str, *, table: str = "rows") -> QuantizedTable:
    """Store a table in fewer bytes.

    A number comes back within half its row's scale (``int8``; the scale is the row's range / 255), or half a
    unit in the last place (``fp16``). ``int4`` answers for the row: its squared error is at most that of
    16 even steps from smallest to largest. A row of equal numbers comes back exactly, in all but ``fp16``.

    Args:
        rows_VD: [V, D], float32.
        kind: one of :data:`KINDS`.
        table: its name, for messages.

    Raises:
        InvalidInputError: an unknown kind, or a value that is not finite or too large for the kind.

    >>> rows = np.array([[0.0, 0.0, 0.0], [-1.0, 0.5, 126.5]], dtype=np.float32)
    >>> quantize_rows(rows, "int8").dequantize().tolist()
    [[0.0, 0.0, 0.0], [-1.0, 0.5, 126.5]]
    >>> quantize_rows(rows, "int4").size_bytes  # 3 codes are 2 bytes, scale and bias 8
    20
    """
    known = check_kind(kind)
    _check_values(rows_VD, known, table)
    if known not in _BITS:
        dtype = np.float32 if known == "none" else np.float16
        return QuantizedTable(kind=known, rows=rows_VD.astype(dtype), width=rows_VD.shape[1])
    stored = np.empty((len(rows_VD), row_bytes(known, rows_VD.shape[1])), dtype=np.uint8)
    for part in _chunks(rows_VD.shape):
        stored[part] = _pack(rows_VD[part].astype(np.float64), known)
    return QuantizedTable(kind=known, rows=stored, width=rows_VD.shape[1])


def check_kind(kind: str) -> Kind:
    """The kind, or InvalidInputError if it is none.

    >>> check_kind("int8")
    'int8'
    """
    for known in KINDS:
        if kind == known:
            return known
    raise InvalidInputError(f"quantize {kind!r}: {nearest(kind, KINDS)}")


def table_kinds(quantize: str | Mapping[str, str], tables: Iterable[str]) -> dict[str, Kind]:
    """Kind of storage of each table.

    Args:
        quantize: one kind for all tables, or table -> kind; ``*`` stands for the tables not named, ``none`` without.
        tables: names of all tables.

    Raises:
        InvalidInputError: an unknown kind or table.

    >>> table_kinds({"*": "int8", "user_id": "fp16"}, ["movie_id", "user_id"])
    {'movie_id': 'int8', 'user_id': 'fp16'}
    """
    chosen = {OTHERS: quantize} if isinstance(quantize, str) else dict(quantize)
    kinds = {table: check_kind(kind) for table, kind in chosen.items()}
    others = kinds.pop(OTHERS, "none")
    names = list(tables)
    for table in kinds:
        if table not in names:
            raise InvalidInputError(f"quantize {table}={kinds[table]}: no table {table!r}: {nearest(table, names)}")
    return {table: kinds.get(table, others) for table in names}


def row_bytes(kind: Kind, width: int) -> int:
    """Bytes of one stored row.

    >>> [row_bytes(kind, 64) for kind in KINDS]
    [256, 128, 72, 40]
    """
    if kind in _BITS:
        return _code_bytes(kind, width) + _TAIL
    return width * (4 if kind == "none" else 2)


class QuantizedRows(nn.Module):
    """:meth:`QuantizedTable.lookup` in tensor operations that export to standard ONNX operators.

    Bits are those of numpy: the floats are put together from their bytes in sums of whole numbers below 2^24
    and products with powers of two, which float32 holds exactly, in any order.
    """

    rows: Tensor
    weights: Tensor
    powers: Tensor

    def __init__(self, table: QuantizedTable) -> None:
        super().__init__()
        self.kind, self.width = table.kind, table.width
        self.register_buffer("rows", torch.from_numpy(np.ascontiguousarray(table.rows)))
        if self.kind not in _BITS:
            return
        # [8 bytes, 4]: the low 24 bits of scale and of bias, then their highest bytes.
        weights = torch.zeros(_TAIL, 4)
        for number in (0, 1):
            weights[4 * number : 4 * number + 3, number] = torch.tensor([1.0, 256.0, 65536.0])
            weights[4 * number + 3, 2 + number] = 1.0
        # Worth of the last bit, by sign and exponent (9 bits). 0 for numbers below SMALLEST, which only 0 is.
        exponents = np.arange(256)
        worth = np.where(exponents >= 27, np.ldexp(1.0, exponents - 150), 0.0).astype(np.float32)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("powers", torch.from_numpy(np.concatenate([worth, -worth]))[:, None], persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """int64 rows of any shape to float32 vectors, [..., D]."""
        # F.embedding is one Gather of the rows asked for; indexing would export as a copy of the table.
        stored = F.embedding(index, self.rows)
        if self.kind not in _BITS:
            return stored.to(torch.float32)
        codes, tail = torch.split(stored, [_code_bytes(self.kind, self.width), _TAIL], dim=-1)
        scale, bias = torch.split(self._floats(tail), [1, 1], dim=-1)
        codes = codes.to(torch.float32)
        if self.kind == "int4":  # in floats: torch's right shift of uint8 exports as one of int8
            high = torch.floor(codes * 2.0**-4)
            codes = torch.cat([codes - high * 2.0**4, high], dim=-1)
            if self.width % 2:
                codes = codes.narrow(-1, 0, self.width)
        vectors: Tensor = codes * scale + bias
        return vectors

    def _floats(self, tail: Tensor) -> Tensor:
        """Two little-endian float32 from their bytes, [..., 8] to [..., 2]. No ONNX operator of opset 21 does it."""
        low, high = torch.split(torch.matmul(tail.to(torch.float32), self.weights), [2, 2], dim=-1)
        odd = torch.floor(low * 2.0**-23)  # bit 23 is the exponent's last; the significand's own bit 23 is not stored
        significand = low + (1.0 - odd) * 2.0**23
        exponent = (high * 2.0 + odd).to(torch.int64)
        floats: Tensor = significand * F.embedding(exponent, self.powers).squeeze(-1)
        return floats


def _check_values(rows_VD: Float32Array, kind: Kind, table: str) -> None:
    if rows_VD.ndim != 2 or rows_VD.dtype != np.float32 or not rows_VD.shape[1]:
        raise InvalidInputError(
            f"table {table!r}: {rows_VD.dtype} of shape {list(rows_VD.shape)}; allowed: float32, [V, D] with D > 0"
        )
    limit = {"none": np.inf, "fp16": float(np.finfo(np.float16).max)}.get(kind, LARGEST)
    for part in _chunks(rows_VD.shape):
        values = rows_VD[part]
        wrong = ~np.isfinite(values) | (np.abs(values) > limit)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            allowed = "finite numbers" if kind == "none" else f"finite numbers from {-limit:.5g} to {limit:.5g}"
            raise InvalidInputError(
                f"table {table!r}: row {part.start + row} holds {values[row, column]}; allowed in {kind}: {allowed}"
            )


def _pack(rows_ND: Float64Array, kind: Kind) -> npt.NDArray[np.uint8]:
    """Stored bytes of N rows, [N, B]."""
    levels = 2 ** _BITS[kind] - 1
    bias = rows_ND.min(axis=1, keepdims=True)
    scale = (rows_ND.max(axis=1, keepdims=True) - bias) / levels
    if kind == "int4":
        scale, bias = _narrower(rows_ND, scale, bias, levels)
    scale, bias = _storable(scale, bias)
    codes = _codes(rows_ND, scale, bias, levels).astype(np.uint8)
    if kind == "int4":
        half = _code_bytes(kind, rows_ND.shape[1])
        padded = np.zeros((len(codes), 2 * half), dtype=np.uint8)
        padded[:, : codes.shape[1]] = codes
        codes = (padded[:, :half] | (padded[:, half:] << 4)).astype(np.uint8)
    tail = np.concatenate([scale, bias], axis=1).astype("<f4").view(np.uint8)
    return np.concatenate([codes, tail], axis=1)


def _unpack(
    rows: npt.NDArray[np.uint8], *, kind: Kind, width: int
) -> tuple[npt.NDArray[np.uint8], Float32Array, Float32Array]:
    """Codes [..., D], and scale and bias [..., 1]."""
    half = _code_bytes(kind, width)
    codes, tail = rows[..., :half], np.ascontiguousarray(rows[..., half:]).view("<f4")
    if kind == "int4":
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1)[..., :width]
    return codes, tail[..., :1], tail[..., 1:]


def _narrower(
    rows_ND: Float64Array, scale: Float64Array, bias: Float64Array, levels: int
) -> tuple[Float64Array, Float64Array]:
    """Scale and bias of each row with the least squared error found, [N, 1] each; never more than what was given.

    From ranges cut at either end: round to codes, fit the line from codes to numbers by least squares, and
    again. Its errors are those of the paper's greedy search or smaller, in no more time.
    """
    # In units of what was given: codes before rounding. float32 is enough to choose by.
    unit = np.where(scale > 0, scale, 1.0)
    wanted_ND = ((rows_ND - bias) / unit).astype(np.float32)
    mean = wanted_ND.mean(axis=1, keepdims=True)
    best_scale, best_bias = np.ones_like(mean), np.zeros_like(mean)
    least = _squared_error(wanted_ND, best_scale, best_bias, levels)
    for low, high in product(_CUTS, _CUTS):
        tried_scale, tried_bias = np.full_like(mean, 1 - low - high), np.full_like(mean, low * levels)
        for _ in range(_REFITS):
            codes = _codes(wanted_ND, tried_scale, tried_bias, levels)
            middle = codes.mean(axis=1, keepdims=True)
            codes -= middle
            spread = np.einsum("nd,nd->n", codes, codes)[:, None]
            together = np.einsum("nd,nd->n", codes, wanted_ND)[:, None]
            tried_scale = np.divide(together, spread, out=tried_scale, where=spread > 0)
            tried_bias = mean - tried_scale * middle
        error = _squared_error(wanted_ND, tried_scale, tried_bias, levels)
        better = error < least
        least = np.where(better, error, least)
        best_scale, best_bias = np.where(better, tried_scale, best_scale), np.where(better, tried_bias, best_bias)
    found = scale * best_scale, bias + unit * best_bias
    # In units, rounding to float32 is not seen; where the scale is next to nothing beside the bias, it decides.
    kept = _squared_error(rows_ND, *_storable(scale, bias), levels)
    better = _squared_error(rows_ND, *_storable(*found), levels) < kept
    return np.where(better, found[0], scale), np.where(better, found[1], bias)


def _storable(scale: Float64Array, bias: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The two as they will be read: rounded to float32, none between 0 and SMALLEST."""
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST), 0.0)
    bias = np.where(np.abs(bias) < SMALLEST, 0.0, bias)
    return scale.astype(np.float32).astype(np.float64), bias.astype(np.float32).astype(np.float64)


def _codes(rows_ND: Floats, scale: Floats, bias: Floats, levels: int) -> Floats:
    codes = rows_ND - bias
    codes /= np.where(scale > 0, scale, np.inf)
    np.rint(codes, out=codes)
    return np.clip(codes, 0, levels, out=codes)


def _squared_error(rows_ND: Floats, scale: Floats, bias: Floats, levels: int) -> Floats:
    difference = _codes(rows_ND, scale, bias, levels)
    difference *= scale
    difference += bias
    difference -= rows_ND
    error: Floats = np.einsum("nd,nd->n", difference, difference)[:, None]
    return error


def _code_bytes(kind: Kind, width: int) -> int:
    return -(-width * _BITS[kind] // 8)


def _chunks(shape: tuple[int, ...]) -> list[slice]:
    """Rows by so many that a chunk's temporaries stay small beside the table."""
    step = max(1, _CHUNK_VALUES // max(1, shape[1]))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
