"""What every RowMap must do: import all of this into a module with these module-scoped fixtures.

``row_map``: the map; ``known``: keys that it may tell from unknown ones, [N]; ``from_arrays``: the
inverse of its ``arrays``; ``unknown``: keys that must get row 0.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from recsys.embeddings.row_maps import UNKNOWN_ROW, RowMap
from recsys.features.hashing import KEY_LIMIT, MISSING, Int64Array

Lookup = Callable[[Int64Array], Int64Array]
EDGES = np.array([MISSING, 0, 1, (1 << 31) - 1, 1 << 31, (1 << 53) + 1, KEY_LIMIT - 1])


class _Named(nn.Module):
    """Keeps the exporter from optimising the module's own name away."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.map = module

    def forward(self, keys: torch.Tensor) -> Any:
        return self.map(keys)


@pytest.fixture(scope="module")
def onnx_model(row_map: RowMap) -> bytes:
    """The map's module as an ONNX file, for [N] keys."""
    example = (torch.arange(7),)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    module = _Named(row_map.module()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module, example, dynamo=True, dynamic_shapes=shapes, opset_version=21, verbose=False
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def lookups(row_map: RowMap, onnx_model: bytes) -> dict[str, Lookup]:
    """The same map in numpy, torch and ONNX Runtime."""
    module = row_map.module()
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return {
        "numpy": row_map.lookup,
        "torch": lambda keys: module(torch.from_numpy(keys)).numpy(),
        "onnxruntime": lambda keys: session.run(None, {name: keys.reshape(-1)})[0].reshape(keys.shape),
    }


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_numpy_torch_and_onnxruntime_give_the_same_bits(
    lookups: dict[str, Lookup], known: Int64Array, data: st.DataObject
) -> None:
    key = st.one_of(st.sampled_from(known.tolist()), st.sampled_from(EDGES.tolist()), st.integers(0, KEY_LIMIT - 1))
    keys = np.array(data.draw(st.lists(key, min_size=1, max_size=30)), dtype=np.int64)
    rows = {name: lookup(keys) for name, lookup in lookups.items()}
    assert all(r.dtype == np.int64 for r in rows.values())
    np.testing.assert_array_equal(rows["torch"], rows["numpy"])
    np.testing.assert_array_equal(rows["onnxruntime"], rows["numpy"])


@pytest.mark.parametrize("shape", [(1,), (2, 3), (4, 1), (0,)])
def test_the_shape_of_the_keys_is_kept(lookups: dict[str, Lookup], known: Int64Array, shape: tuple[int, ...]) -> None:
    keys = np.resize(known, shape)
    for name, lookup in lookups.items():
        assert lookup(keys).shape == shape, name


def test_all_known_keys_agree_at_once(lookups: dict[str, Lookup], known: Int64Array) -> None:
    expected = lookups["numpy"](known)
    np.testing.assert_array_equal(lookups["torch"](known), expected)
    np.testing.assert_array_equal(lookups["onnxruntime"](known), expected)


def test_missing_and_unknown_keys_get_row_0(lookups: dict[str, Lookup], unknown: Int64Array) -> None:
    keys = np.concatenate([[MISSING], unknown])
    for name, lookup in lookups.items():
        assert (lookup(keys) == UNKNOWN_ROW).all(), name


def test_rows_are_in_range(row_map: RowMap, known: Int64Array) -> None:
    rows = row_map.lookup(np.concatenate([known, EDGES]))
    assert 0 <= rows.min()
    assert rows.max() < row_map.num_rows


def test_a_lookup_depends_on_the_key_alone(row_map: RowMap, known: Int64Array) -> None:
    rows = row_map.lookup(known)
    np.testing.assert_array_equal(row_map.lookup(known[::-1])[::-1], rows)
    assert [int(row_map.lookup(known[i : i + 1])[0]) for i in range(min(20, len(known)))] == rows[:20].tolist()


def test_arrays_rebuild_the_same_map(
    row_map: RowMap, from_arrays: Callable[[Mapping[str, Any]], RowMap], known: Int64Array
) -> None:
    rebuilt = from_arrays(row_map.arrays())
    keys = np.concatenate([known, EDGES])
    assert rebuilt.num_rows == row_map.num_rows
    np.testing.assert_array_equal(rebuilt.lookup(keys), row_map.lookup(keys))


def test_the_graph_has_standard_operators_and_no_floating_point(onnx_model: bytes) -> None:
    model = onnx.load_from_string(onnx_model)
    assert {imported.domain for imported in model.opset_import} == {""}
    # A key above 2^53 does not survive a float; nor does one above 2^24 survive a float32.
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    casts = {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    assert not casts & floats
