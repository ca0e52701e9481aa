"""What every RowMap must do: import all of this into a module with these module-scoped fixtures.

``row_map``: the map; ``twin``: one built from the same with the same seed; ``reseeded``: with another seed;
``known``: keys that it may tell from others, [N]; ``unknown``: keys that it was not built from; ``graph``: the map
in ONNX, from :func:`export_row_maps`.

Legend: ``K`` lookups.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from torch import nn

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap
from recsys.export.rewrites.functions import id_rows
from recsys.export.rewrites.simplify import fold_constants
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.operators import use_operators

Lookup = Callable[[Int64Array], Int64Array]
EDGES = np.array([MISSING, 0, 1, (1 << 31) - 1, 1 << 31, (1 << 53) + 1, KEY_LIMIT - (1 << 31), KEY_LIMIT - 1])
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Graph:
    """A row map in ONNX: the output ``name`` of a model, for [N] keys.

    ``own``: with look-ups as functions, by the operators that were compiled.
    """

    model: bytes
    session: onnxruntime.InferenceSession
    own: onnxruntime.InferenceSession
    name: str


class _All(nn.Module):
    """One graph of several maps: an export costs seconds, whatever its size."""

    def __init__(self, row_maps: Mapping[str, RowMap]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(row_map.module() for row_map in row_maps.values())

    def forward(self, keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(row_map(keys) for row_map in self.maps)


def export_row_maps(row_maps: Mapping[str, RowMap]) -> dict[str, Graph]:
    """The maps' modules as one ONNX model, by the maps' names."""
    outputs = [f"rows_{i}" for i in range(len(row_maps))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            _All(row_maps).eval(),
            (torch.arange(7),),
            dynamo=True,
            input_names=["keys"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=21,
            verbose=False,
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    model = file.getvalue()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outlined = onnx.load_model_from_string(model)
    fold_constants(outlined.graph)
    assert id_rows(outlined) > 0
    for node in outlined.graph.node:
        assert node.op_type == "IdRows" or not any("slots_TW" in read for read in node.input), "a map of ids is left"
    options = onnxruntime.SessionOptions()
    use_operators(options)
    own = onnxruntime.InferenceSession(outlined.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {name: Graph(model, session, own, output) for name, output in zip(row_maps, outputs, strict=True)}


@pytest.fixture(scope="module")
def lookups(row_map: RowMap, graph: Graph) -> dict[str, Lookup]:
    """The same map in numpy, torch, and ONNX Runtime with its operators and with ours."""
    module = row_map.module()

    def in_onnxruntime(session: onnxruntime.InferenceSession, keys: Int64Array) -> Int64Array:
        rows = session.run([graph.name], {"keys": keys.reshape(-1)})[0]
        assert rows.shape == (keys.size, len(row_map.lookups))
        return rows.reshape(*keys.shape, -1)

    return {
        "numpy": row_map.lookup,
        "torch": lambda keys: module(torch.from_numpy(keys)).numpy(),
        "onnxruntime": lambda keys: in_onnxruntime(graph.session, keys),
        "own operators": lambda keys: in_onnxruntime(graph.own, keys),
    }


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
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
    np.testing.assert_array_equal(rows["own operators"], rows["numpy"])


def test_all_known_and_many_unknown_keys_agree_at_once(
    lookups: dict[str, Lookup], known: Int64Array, unknown: Int64Array
) -> None:
    keys = np.concatenate([known, unknown, EDGES])
    expected = lookups["numpy"](keys)
    np.testing.assert_array_equal(lookups["torch"](keys), expected)
    np.testing.assert_array_equal(lookups["onnxruntime"](keys), expected)
    np.testing.assert_array_equal(lookups["own operators"](keys), expected)


@pytest.mark.parametrize("shape", [(1,), (2, 3), (4, 1), (0,), (0, 3)])
def test_the_shape_of_the_keys_is_kept_with_one_row_per_lookup(
    row_map: RowMap, lookups: dict[str, Lookup], known: Int64Array, shape: tuple[int, ...]
) -> None:
    keys = np.resize(known, shape)
    for name, lookup in lookups.items():
        # ONNX Runtime's sums over nothing have a wrong shape; graphs take 1 key or more.
        if keys.size or name in ("numpy", "torch"):
            assert lookup(keys).shape == (*shape, len(row_map.lookups)), name


def test_the_module_answers_each_lookup_by_itself(row_map: RowMap, known: Int64Array) -> None:
    """``rows`` is what a graph gathers with; ``forward`` stacks it."""
    each = row_map.module().rows(torch.from_numpy(known))
    assert len(each) == len(row_map.lookups)
    np.testing.assert_array_equal(np.stack([rows.numpy() for rows in each], axis=-1), row_map.lookup(known))


def test_a_missing_id_gets_row_0_in_every_lookup(row_map: RowMap, lookups: dict[str, Lookup]) -> None:
    for name, lookup in lookups.items():
        assert lookup(np.array([MISSING, MISSING])).tolist() == [[UNKNOWN_ROW] * len(row_map.lookups)] * 2, name


def test_an_unknown_id_gets_row_0_or_one_that_is_meant_for_hashed_ids(row_map: RowMap, unknown: Int64Array) -> None:
    rows = row_map.lookup(unknown)
    for k, lookup in enumerate(row_map.lookups):
        if lookup.hashed is None:
            assert (rows[:, k] == UNKNOWN_ROW).all()
        else:
            assert lookup.hashed.first >= 1
            assert lookup.hashed.first <= rows[:, k].min()
            assert rows[:, k].max() < lookup.hashed.first + lookup.hashed.count


def test_known_ids_never_get_row_0(row_map: RowMap, known: Int64Array) -> None:
    if row_map.ids is not None:
        assert (row_map.lookup(row_map.ids.entries()[0]) > UNKNOWN_ROW).all()
    if all(lookup.hashed for lookup in row_map.lookups):
        assert (row_map.lookup(known) > UNKNOWN_ROW).all()


def test_rows_are_in_range_of_their_physical_table(row_map: RowMap, known: Int64Array, unknown: Int64Array) -> None:
    rows = row_map.lookup(np.concatenate([known, unknown, EDGES]))
    assert rows.min() >= 0
    for k, lookup in enumerate(row_map.lookups):
        assert rows[:, k].max() < lookup.num_rows
        assert row_map.table_rows()[lookup.table] == lookup.num_rows, "lookups of one table agree on its rows"


def test_a_lookup_depends_on_the_key_alone(row_map: RowMap, known: Int64Array) -> None:
    rows = row_map.lookup(known)
    np.testing.assert_array_equal(row_map.lookup(known[::-1])[::-1], rows)
    assert [row_map.lookup(known[i : i + 1])[0].tolist() for i in range(20)] == rows[:20].tolist()


def test_the_same_seed_gives_the_same_map_and_another_seed_other_hashed_rows(
    row_map: RowMap, twin: RowMap, reseeded: RowMap, known: Int64Array, unknown: Int64Array
) -> None:
    keys = np.concatenate([known, unknown, EDGES])
    np.testing.assert_array_equal(twin.lookup(keys), row_map.lookup(keys))
    for name, array in row_map.arrays().items():
        np.testing.assert_array_equal(twin.arrays()[name], array)
    assert reseeded.table_rows() == row_map.table_rows()
    for k, lookup in enumerate(row_map.lookups):
        rows, others = row_map.lookup(unknown)[:, k], reseeded.lookup(unknown)[:, k]
        if lookup.hashed is None:
            np.testing.assert_array_equal(rows, others)
        else:
            assert np.mean(rows == others) < 10 / lookup.hashed.count


def test_arrays_rebuild_the_same_map_from_a_file(
    row_map: RowMap, known: Int64Array, unknown: Int64Array, tmp_path: Path
) -> None:
    np.savez(tmp_path / "map.npz", allow_pickle=False, **row_map.arrays())
    with np.load(tmp_path / "map.npz", allow_pickle=False) as stored:
        rebuilt = RowMap.from_arrays(dict(stored))
    assert (rebuilt.kind, rebuilt.lookups, rebuilt.combine) == (row_map.kind, row_map.lookups, row_map.combine)
    assert rebuilt.spare_rows.tolist() == row_map.spare_rows.tolist()
    assert rebuilt.size_bytes == row_map.size_bytes
    keys = np.concatenate([known, unknown, EDGES])
    np.testing.assert_array_equal(rebuilt.lookup(keys), row_map.lookup(keys))


def test_arrays_that_are_no_map_are_refused(row_map: RowMap) -> None:
    arrays = row_map.arrays()
    with pytest.raises(KeyError):
        RowMap.from_arrays({name: array for name, array in arrays.items() if name != "map"})
    with pytest.raises(ValueError):
        RowMap.from_arrays({**arrays, "map": np.array("not JSON")})
    about = json.loads(str(arrays["map"]))
    with pytest.raises(TypeError):
        RowMap.from_arrays({**arrays, "map": np.array(json.dumps({**about, "lookups": [{"hashed": None, "row": 1}]}))})


def test_its_memory_is_that_of_the_tensors_that_a_graph_maps(row_map: RowMap) -> None:
    tensors = [*row_map.module().buffers(), *row_map.module().parameters()]
    assert row_map.size_bytes == sum(tensor.nbytes for tensor in tensors)
    if row_map.ids is None:
        assert row_map.size_bytes == 0
    else:
        assert row_map.size_bytes == row_map.arrays()["ids_keys"].nbytes + row_map.arrays()["ids_rows"].nbytes


def test_the_graph_has_standard_operators_and_no_floating_point(graph: Graph) -> None:
    model = onnx.load_from_string(graph.model)
    assert {imported.domain for imported in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    # A key above 2^53 does not survive a float64; nor does one above 2^24 survive a float32.
    casts = {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    assert not casts & FLOATS
    assert not {tensor.data_type for tensor in model.graph.initializer} & FLOATS
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    assert inferred and not {value.type.tensor_type.elem_type for value in inferred} & FLOATS
