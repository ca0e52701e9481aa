"""Quantised rows: what comes back is as near as stated, and the same bits in numpy, torch and ONNX Runtime."""

import contextlib
import io
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recsys.arrays import Float32Array, Float64Array
from recsys.embeddings.quantize import (
    KINDS,
    LARGEST,
    SMALLEST,
    Kind,
    QuantizedRows,
    QuantizedTable,
    quantize_rows,
    row_bytes,
)
from recsys.errors import InvalidInputError

PACKED: tuple[Kind, ...] = ("int8", "int4")
LEVELS = {"int8": 255, "int4": 15}


def tables(limit: float, *, least: float = 0.0) -> st.SearchStrategy[Float32Array]:
    """Up to 4 rows of up to 9 numbers of any magnitude from ``least`` to ``limit``, 0 included."""
    numbers = st.floats(-limit, limit, width=32).filter(lambda value: value == 0.0 or abs(value) >= least)
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 9))
    return arrays.arrays(np.float32, shapes, elements=numbers)


def stored_scale_and_bias(table: QuantizedTable) -> Float64Array:
    """As the specification says: the last 8 bytes of a row, two little-endian float32."""
    return np.frombuffer(table.rows[:, -8:].tobytes(), dtype="<f4").reshape(-1, 2).astype(np.float64)


def rounding(rows: Float32Array) -> Float64Array:
    """What float32 itself loses in a product and a sum of numbers of the row's size."""
    return 2.0**-22 * np.abs(rows).max(axis=1, keepdims=True).astype(np.float64) + 2 * SMALLEST


def trained_like(rows: int, width: int, seed: int = 0) -> Float32Array:
    """Normal numbers in rows of very different norms, as training leaves them."""
    random = np.random.Generator(np.random.PCG64(seed))
    return (random.normal(size=(rows, width)) * 10.0 ** random.uniform(-4, 1, size=(rows, 1))).astype(np.float32)


@given(tables(float(LARGEST)))
def test_an_int8_number_comes_back_within_half_its_rows_scale(rows: Float32Array) -> None:
    table = quantize_rows(rows, "int8")
    scale = stored_scale_and_bias(table)[:, :1]
    wide = rows.astype(np.float64)
    needed = (wide.max(axis=1, keepdims=True) - wide.min(axis=1, keepdims=True)) / 255
    assert (scale <= np.maximum(needed, SMALLEST) * (1 + 2.0**-23)).all()
    assert (np.abs(table.dequantize() - wide) <= scale / 2 + rounding(rows)).all()


@given(tables(float(LARGEST)))
def test_int4_loses_no_more_than_even_steps_from_smallest_to_largest(rows: Float32Array) -> None:
    wide = rows.astype(np.float64)
    low = wide.min(axis=1, keepdims=True)
    step = np.maximum((wide.max(axis=1, keepdims=True) - low) / 15, 1e-300)
    even = np.sqrt(((np.rint((wide - low) / step) * step + low - wide) ** 2).sum(axis=1))
    lost = np.sqrt(((quantize_rows(rows, "int4").dequantize() - wide) ** 2).sum(axis=1))
    slack = rows.shape[1] * (rounding(rows)[:, 0] + SMALLEST)
    assert (lost <= even + slack).all()


@given(tables(65504.0, least=2.0**-14))
def test_an_fp16_number_comes_back_within_half_a_unit_of_its_last_place(rows: Float32Array) -> None:
    assert (np.abs(quantize_rows(rows, "fp16").dequantize() - rows) <= np.abs(rows) * 2.0**-11).all()


@pytest.mark.parametrize("kind", PACKED)
@given(value=st.floats(-LARGEST, LARGEST, width=32), width=st.integers(1, 9))
def test_a_row_of_equal_numbers_comes_back_exactly(kind: Kind, value: float, width: int) -> None:
    expected = value if abs(value) >= SMALLEST else 0.0
    rows = np.full((2, width), value, dtype=np.float32)
    np.testing.assert_array_equal(quantize_rows(rows, kind).dequantize(), np.full_like(rows, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_comes_back_as_zeros(kind: Kind) -> None:
    rows = trained_like(5, 8)
    rows[0] = 0.0
    assert not quantize_rows(rows, kind).dequantize()[0].any()


def test_none_keeps_every_bit() -> None:
    rows = trained_like(5, 8)
    np.testing.assert_array_equal(quantize_rows(rows, "none").dequantize(), rows)


def greedy_search(rows: Float32Array, *, bins: int = 200, ratio: float = 0.16) -> Float32Array:
    """The paper's search (arXiv 1911.02079, algorithm 1): move one end of the range at a time, keep the best."""

    def rounded(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scale = (high - low) / 15
        return np.clip(np.rint((rows - low) / scale), 0, 15) * scale + low

    def error(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return ((rounded(low, high) - rows) ** 2).sum(axis=1, keepdims=True)

    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    step = (high - low) / bins
    best_low, best_high, least = low, high, error(low, high)
    for _ in range(int(bins * ratio)):
        raised, lowered = error(low + step, high), error(low, high - step)
        low, high = np.where(raised < lowered, low + step, low), np.where(raised < lowered, high, high - step)
        now = np.minimum(raised, lowered)
        best_low, best_high = np.where(now < least, low, best_low), np.where(now < least, high, best_high)
        least = np.minimum(now, least)
    return rounded(best_low, best_high)


@pytest.mark.parametrize("width", [8, 16, 64])
def test_int4_is_as_near_as_the_papers_greedy_search(width: int) -> None:
    rows = trained_like(500, width)
    lost = [
        np.mean(np.linalg.norm(found - rows, axis=1) / np.linalg.norm(rows, axis=1))
        for found in (quantize_rows(rows, "int4").dequantize(), greedy_search(rows))
    ]
    assert lost[0] <= 1.01 * lost[1]


@pytest.mark.parametrize(
    ("kind", "width", "expected"),
    [("none", 64, 256), ("fp16", 64, 128), ("int8", 64, 72), ("int4", 64, 40), ("int4", 5, 11), ("int8", 1, 9)],
)
def test_a_row_takes_the_bytes_it_says(kind: Kind, width: int, expected: int) -> None:
    table = quantize_rows(trained_like(3, width), kind)
    assert row_bytes(kind, width) == expected
    assert table.size_bytes == table.rows.nbytes == 3 * expected


def test_an_int8_row_is_codes_then_scale_and_bias() -> None:
    rows = np.array([[-1.0, 0.0, 254.0]], dtype=np.float32)
    stored = quantize_rows(rows, "int8").rows
    assert stored.tobytes() == bytes([0, 1, 255]) + np.array([1.0, -1.0], dtype="<f4").tobytes()


def test_an_int4_byte_holds_a_number_of_the_first_half_and_one_of_the_second() -> None:
    rows = np.arange(16, dtype=np.float32)[None, :]
    rows = rows[:, [3, 0, 15, 7, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]]
    stored = quantize_rows(rows, "int4").rows[0]
    codes = rows[0].astype(np.uint8)
    np.testing.assert_array_equal(stored[:8], codes[:8] | codes[8:] << 4)


def test_int8_rows_are_fbgemms_fused_rows() -> None:
    import fbgemm_gpu  # noqa: F401  (registers the operators)

    rows = trained_like(200, 16)
    table = quantize_rows(rows, "int8")
    theirs = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(torch.from_numpy(rows)).numpy()
    assert theirs.shape == table.rows.shape
    np.testing.assert_array_equal(theirs[:, -4:], table.rows[:, -4:])
    assert np.abs(theirs[:, :-8].astype(int) - table.rows[:, :-8]).max() <= 1  # their scale is rounded otherwise
    read = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(torch.from_numpy(table.rows)).numpy()
    np.testing.assert_allclose(read, table.dequantize(), rtol=1e-6, atol=1e-6 * np.abs(rows).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(kind: Kind, value: float) -> None:
    rows = trained_like(5, 4)
    rows[3, 2] = value
    with pytest.raises(InvalidInputError, match=rf"table 'movie_id': row 3 holds {value}; allowed in {kind}: finite"):
        quantize_rows(rows, kind, table="movie_id")


@pytest.mark.parametrize(("kind", "value"), [("fp16", 65505.0), ("int8", 2.0**127), ("int4", -(2.0**127))])
def test_a_number_too_large_for_the_kind_is_refused(kind: Kind, value: float) -> None:
    rows = np.array([[1.0, value]], dtype=np.float32)
    with pytest.raises(InvalidInputError, match=rf"row 0 holds .*; allowed in {kind}: finite numbers from"):
        quantize_rows(rows, kind)


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match="quantize 'int-4': did you mean 'int4'.*valid: fp16, int4, int8, none"):
        quantize_rows(trained_like(1, 4), "int-4")


@pytest.mark.parametrize("rows", [np.zeros(3, np.float32), np.zeros((3, 2)), np.zeros((3, 0), np.float32)])
def test_rows_that_are_no_float32_table_are_refused(rows: npt.NDArray[Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"allowed: float32, \[V, D\] with D > 0"):
        quantize_rows(rows, "int8")


@pytest.mark.parametrize("kind", KINDS)
@given(rows=tables(65504.0))
def test_torch_gives_the_bits_of_numpy(kind: Kind, rows: Float32Array) -> None:
    table = quantize_rows(rows, kind)
    index = torch.arange(len(rows))
    assert QuantizedRows(table)(index).numpy().tobytes() == table.dequantize().tobytes()


@pytest.mark.parametrize("kind", PACKED)
@given(rows=tables(float(LARGEST)))
def test_torch_gives_the_bits_of_numpy_at_any_magnitude(kind: Kind, rows: Float32Array) -> None:
    table = quantize_rows(rows, kind)
    np.testing.assert_array_equal(QuantizedRows(table)(torch.arange(len(rows))).numpy(), table.dequantize())


def awkward_rows(width: int) -> Float32Array:
    """Rows of every magnitude, of zeros, of one number, and of random scales and biases."""
    rows = trained_like(300, width, seed=width)
    rows[0] = 0.0
    rows[1] = -0.1
    rows[2:40] = rows[2:40] * 2.0 ** np.linspace(-120, 12, 38)[:, None]
    return np.clip(rows, -65504, 65504)


@cache
def graph(kind: Kind, width: int) -> bytes:
    """The module in ONNX, with a dynamic length."""
    module = QuantizedRows(quantize_rows(awkward_rows(width), kind)).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.arange(5),),
            dynamo=True,
            input_names=["index"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=21,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


@pytest.mark.parametrize("width", [4, 5, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_the_bits_of_numpy(kind: Kind, width: int, tmp_path: Path) -> None:
    table = quantize_rows(awkward_rows(width), kind)
    index = np.random.Generator(np.random.PCG64(1)).integers(0, 300, size=1000)
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(graph(kind, width), options, providers=["CPUExecutionProvider"])
        for rows in (index, index[:1]):
            (got,) = session.run(None, {"index": rows})
            assert got.tobytes() == table.lookup(rows).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_gathers_rows_before_it_touches_them_and_has_standard_operators_only(kind: Kind) -> None:
    model = onnx.load_from_string(graph(kind, 5))
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    stored = next(t for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] == 300)
    assert [node.op_type for node in model.graph.node if stored.name in node.input] == ["Gather"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_any_shape_gives_vectors_of_that_shape(kind: Kind) -> None:
    table = quantize_rows(trained_like(10, 6), kind)
    index = torch.tensor([[3, 1], [0, 9], [9, 9]])
    got = QuantizedRows(table)(index)
    assert got.shape == (3, 2, 6)
    np.testing.assert_array_equal(got.numpy().reshape(6, 6), table.lookup(index.numpy().reshape(-1)))
