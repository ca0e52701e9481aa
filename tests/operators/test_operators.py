"""The compiled operators: what they compute, from its definition, for every shape that a bundle may have."""

import shutil
from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from recsys import operators
from recsys.arrays import Float32Array, Int64Array
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.features.hashing import PRIME
from recsys.operators import has_vnni, library, run_here, use_operators

runs = pytest.mark.skipif(library() is None, reason="the operators were not compiled")
runs_vnni = pytest.mark.skipif(not has_vnni(), reason="they were not compiled, or this processor has no VNNI")

FLOAT, INT8, INT64 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64
TARGET_ATTENTION = {
    "query": (FLOAT, ("C", "D")),
    "weight": (INT8, ("D", "S", "H")),
    "weight_unit": (FLOAT, ()),
    "bias": (FLOAT, ("S", "H")),
    "second_weight": (INT8, ("H", "N")),
    "second_unit": (FLOAT, ("N",)),
    "second_bias": (FLOAT, ("N",)),
    "last_weight": (FLOAT, (1, "N")),
    "last_bias": (FLOAT, (1,)),
    "keys": (FLOAT, ("S", "D")),
}


HEAD = {
    "x": (FLOAT, ("C", "K")),
    "weight": (INT8, ("K", "H")),
    "unit": (FLOAT, ("H",)),
    "bias": (FLOAT, ("H",)),
    **{name: TARGET_ATTENTION[name] for name in ("second_weight", "second_unit", "second_bias")},
    **{name: TARGET_ATTENTION[name] for name in ("last_weight", "last_bias")},
}
OPERATORS = ("IdRows", "BucketInterest", "AttentionWeight", "TargetAttention", "Head")


def test_the_operators_are_compiled_wherever_there_is_a_compiler() -> None:
    if shutil.which("c++") or shutil.which("g++"):
        assert library() is not None
        assert run_here()


@runs
def test_those_said_to_run_here_are_registered() -> None:
    for name in OPERATORS:
        graph = helper.make_graph([helper.make_node(name, [], ["y"], domain="recsys")], "one", [], [])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("recsys", 1)], ir_version=10)
        options = onnxruntime.SessionOptions()
        assert use_operators(options)
        found = "input size 0 not in range|is not a registered function/op"
        with pytest.raises(Exception, match=found) as raised:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        assert ("not in range" in str(raised.value)) == (name in run_here())


@cache
def layers(operator: str, first_slope: float, second_slope: float) -> onnxruntime.InferenceSession:
    inputs = TARGET_ATTENTION if operator == "TargetAttention" else HEAD
    slopes = {"first_slope": first_slope, "second_slope": second_slope}
    node = helper.make_node(operator, list(inputs), ["result"], domain="recsys", **slopes)
    # Any shape: what does not fit is the operator's to notice.
    free = {name: (kind, [None] * len(shape)) for name, (kind, shape) in inputs.items()}
    return session(node, free, {"result": FLOAT})


@cache
def weight() -> onnxruntime.InferenceSession:
    node = helper.make_node("AttentionWeight", ["keys", "folded"], ["weight", "unit"], domain="recsys")
    inputs = {"keys": (FLOAT, ("S", "D")), "folded": (FLOAT, ("D2", "two", "H"))}
    return session(node, inputs, {"weight": INT8, "unit": FLOAT})


def session(node: object, inputs: Mapping[str, object], outputs: Mapping[str, int]) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],  # type: ignore[misc]
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("recsys", 1)]
    options = onnxruntime.SessionOptions()
    assert use_operators(options)
    model = helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def in_bytes(rows: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Each row as whole numbers of [-127, 127], and their unit."""
    unit = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)
    return np.rint(np.divide(rows, unit, out=np.zeros_like(rows), where=unit > 0)), unit


def layer(
    rows: Float32Array,
    weight: npt.NDArray[np.generic],
    unit: npt.NDArray[np.generic],
    bias: npt.NDArray[np.generic],
    slope: float,
) -> Float32Array:
    """LeakyReLU of a layer, from the rows in bytes."""
    codes, of_rows = in_bytes(rows)
    sums = codes @ weight.astype(np.float64) * of_rows * unit + bias
    return np.asarray(np.where(sums < 0, slope * sums, sums), dtype=np.float32)


def column(given: Mapping[str, npt.NDArray[np.generic]], hidden: Float32Array, slope: float) -> Float32Array:
    """The second and the last layer, [.., 1]."""
    second = layer(hidden, given["second_weight"], given["second_unit"], given["second_bias"], slope)
    return np.asarray(second @ given["last_weight"].T.astype(np.float64) + given["last_bias"], dtype=np.float32)


def interest(given: Mapping[str, npt.NDArray[np.generic]], first_slope: float, second_slope: float) -> Float32Array:
    """The definition, with rows quantised one by one."""
    query, unit, bias = given["query"].astype(np.float32), given["weight_unit"], given["bias"]
    events = range(given["keys"].shape[0])
    hidden = [layer(query, given["weight"][:, s], unit, bias[s], first_slope) for s in events]
    scores = np.concatenate([column(given, hidden_of_s, second_slope) for hidden_of_s in hidden], axis=1)
    return np.asarray(scores @ given["keys"].astype(np.float64), dtype=np.float32)


def logits(given: Mapping[str, npt.NDArray[np.generic]], first_slope: float, second_slope: float) -> Float32Array:
    """As :func:`interest`, of ``Head``."""
    x = given["x"].astype(np.float32)
    return column(given, layer(x, given["weight"], given["unit"], given["bias"], first_slope), second_slope)


def inputs(
    random: np.random.Generator, of: Mapping[str, tuple[int, tuple[object, ...]]], **sizes: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Random ones, whose products are about 1."""
    made: dict[str, npt.NDArray[np.generic]] = {}
    for name, (kind, shape) in of.items():
        wanted = [size if isinstance(size, int) else sizes[str(size)] for size in shape]
        if kind == INT8:
            made[name] = random.integers(-127, 128, size=wanted, dtype=np.int8)
        else:
            made[name] = np.asarray(random.normal(size=wanted), dtype=np.float32)
    for name in ("weight_unit", "unit", "second_unit"):
        if name in made:
            made[name] = np.asarray(np.abs(made[name]) / 100, dtype=np.float32)
    return made


def assert_same_but_for_rounding(got: Float32Array, expected: Float32Array) -> None:
    """A hidden unit may fall to the other side of a half: one step of one input of the second layer."""
    assert got.shape == expected.shape
    if expected.size:
        size = np.abs(expected).mean()
        assert np.abs(got - expected).mean() <= 0.01 * size
        np.testing.assert_allclose(got, expected, rtol=0.02, atol=0.2 * size + 1e-6)


SLOPES = st.sampled_from([(0.25, 0.1), (0.0, 0.0), (-0.5, 1.5)])
UNITS = st.integers(1, 128)


@runs_vnni
@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1 << 30),
    sizes=st.fixed_dictionaries(
        {"C": st.integers(0, 600), "D": st.integers(1, 70), "S": st.integers(1, 9), "H": UNITS, "N": UNITS}
    ),
    slopes=SLOPES,
)
@example(seed=0, sizes={"C": 257, "D": 64, "S": 50, "H": 80, "N": 40}, slopes=(0.25, 0.25))
@example(seed=1, sizes={"C": 256, "D": 1, "S": 1, "H": 128, "N": 128}, slopes=(0.25, 0.25))
def test_attention_is_its_definition_with_rows_in_bytes(
    seed: int, sizes: dict[str, int], slopes: tuple[float, float]
) -> None:
    given_ = inputs(np.random.Generator(np.random.PCG64(seed)), TARGET_ATTENTION, **sizes)
    (got,) = layers("TargetAttention", *slopes).run(None, given_)
    assert_same_but_for_rounding(got, interest(given_, *slopes))


@runs_vnni
@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1 << 30),
    sizes=st.fixed_dictionaries(
        {"C": st.integers(0, 200), "K": st.integers(1, 400), "H": st.integers(1, 300), "N": UNITS}
    ),
    slopes=SLOPES,
)
@example(seed=0, sizes={"C": 200, "K": 320, "H": 200, "N": 80}, slopes=(0.25, 0.25))
@example(seed=1, sizes={"C": 64, "K": 3, "H": 80, "N": 128}, slopes=(0.25, 0.25))
def test_a_head_is_its_definition_with_rows_in_bytes(
    seed: int, sizes: dict[str, int], slopes: tuple[float, float]
) -> None:
    given_ = inputs(np.random.Generator(np.random.PCG64(seed)), HEAD, **sizes)
    (got,) = layers("Head", *slopes).run(None, given_)
    assert_same_but_for_rounding(got, logits(given_, *slopes))


@runs_vnni
def test_zeros_and_huge_numbers_are_no_special_case() -> None:
    query = np.array([[0, 0, 0, 0], [1e30, -1e30, 0, 1e30], [1e-38, 0, 0, 1e-38]], dtype=np.float32)
    random = np.random.Generator(np.random.PCG64(0))
    attended = {**inputs(random, TARGET_ATTENTION, C=3, D=4, S=2, H=16, N=8), "query": query}
    (got,) = layers("TargetAttention", 0.25, 0.25).run(None, attended)
    np.testing.assert_allclose(got, interest(attended, 0.25, 0.25), rtol=0.02)
    headed = {**inputs(random, HEAD, C=3, K=4, H=16, N=8), "x": query}
    (got,) = layers("Head", 0.25, 0.25).run(None, headed)
    np.testing.assert_allclose(got, logits(headed, 0.25, 0.25), rtol=0.02)


@runs_vnni
@pytest.mark.parametrize(
    ("operator", "name"),
    [
        *(("TargetAttention", name) for name in TARGET_ATTENTION if name not in ("query", "weight_unit")),
        *(("Head", name) for name in HEAD if name != "x"),
    ],
)
def test_shapes_that_do_not_fit_each_other_are_refused(operator: str, name: str) -> None:
    of = TARGET_ATTENTION if operator == "TargetAttention" else HEAD
    given_ = inputs(np.random.Generator(np.random.PCG64(0)), of, C=3, D=8, K=8, S=2, H=16, N=8)
    whole, half = dict(given_), dict(given_)
    whole[name] = np.repeat(given_[name], 2, axis=-1)
    half[name] = given_[name][..., : given_[name].shape[-1] // 2]
    for wrong in (whole, half):
        with pytest.raises(Exception, match=f"recsys.{operator}: the inputs' shapes do not fit each other"):
            layers(operator, 0.1, 0.1).run(None, wrong)


@runs_vnni
def test_more_units_than_an_operator_holds_are_refused() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    for operator, of, sizes in (
        ("TargetAttention", TARGET_ATTENTION, {"H": 129, "N": 8}),
        ("TargetAttention", TARGET_ATTENTION, {"H": 8, "N": 129}),
        ("Head", HEAD, {"H": 8, "N": 129}),
    ):
        with pytest.raises(Exception, match=f"recsys.{operator}: .* a layer is too large"):
            layers(operator, 0.1, 0.1).run(None, inputs(random, of, C=2, D=4, K=4, S=2, **sizes))


@runs_vnni
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("operator", "name"),
    [("TargetAttention", "query"), ("TargetAttention", "weight_unit"), ("TargetAttention", "bias"), ("Head", "x")],
)
def test_what_is_no_finite_number_does_not_become_one(operator: str, name: str, bad: float) -> None:
    of = TARGET_ATTENTION if operator == "TargetAttention" else HEAD
    given_ = inputs(np.random.Generator(np.random.PCG64(0)), of, C=3, D=20, K=20, S=2, H=20, N=8)
    given_[name].flat[-1] = bad
    (got,) = layers(operator, 0.25, 0.25).run(None, given_)
    assert not np.isfinite(got[-1]).any()
    assert np.isfinite(got[:-1]).all() == (name in ("query", "x")), "other candidates have no part in it"


@runs_vnni
def test_a_folded_layer_that_is_not_finite_has_no_finite_unit() -> None:
    keys, folded = np.ones((2, 3), "f"), np.ones((3, 2, 5), "f")
    for bad in (np.nan, np.inf):
        folded[1, 0, 4] = bad
        assert not np.isfinite(weight().run(None, {"keys": keys, "folded": folded})[1])


@runs_vnni
def test_a_call_without_its_slopes_is_refused_when_it_is_loaded() -> None:
    node = helper.make_node("Head", list(HEAD), ["result"], domain="recsys")
    with pytest.raises(Exception, match="first_slope"):
        session(node, HEAD, {"result": FLOAT})


@cache
def buckets() -> onnxruntime.InferenceSession:
    node = helper.make_node("BucketInterest", ["products", "bits", "others", "sums"], ["interest"], domain="recsys")
    inputs = {"products": (TensorProto.DOUBLE, ["C", "K"]), "bits": (FLOAT, ["B", "two"])}
    return session(node, {**inputs, "others": (FLOAT, ["two"]), "sums": (FLOAT, ["R", "D"])}, {"interest": FLOAT})


@runs
@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 1 << 30), C=st.integers(0, 50), G=st.integers(1, 20), B=st.integers(1, 6), D=st.integers(1, 70)
)
def test_interest_is_the_sum_of_the_buckets_that_the_signs_name(seed: int, C: int, G: int, B: int, D: int) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    # Whole numbers, so that any order of adding gives the same; a product of zero has no positive sign.
    products = random.integers(-1, 2, size=(C, G * B)).astype(np.float64)
    sums = random.integers(-9, 10, size=(G * 2**B, D)).astype(np.float32)
    sizes = {"bits": np.zeros((B, 2**B), "f"), "others": np.zeros(2**B, "f")}
    (got,) = buckets().run(None, {"products": products, "sums": sums, **sizes})
    numbers = ((products > 0).reshape(C, G, B) * 2 ** np.arange(B)).sum(axis=2)
    np.testing.assert_array_equal(got, sums.reshape(G, 2**B, D)[np.arange(G), numbers].sum(axis=1))


@runs
@pytest.mark.parametrize(
    ("name", "shape"), [("products", (2, 5)), ("bits", (2, 5)), ("bits", (0, 4)), ("others", (5,)), ("sums", (11, 3))]
)
def test_buckets_that_do_not_fit_the_signs_are_refused(name: str, shape: tuple[int, ...]) -> None:
    right = {"bits": np.zeros((2, 4), "f"), "others": np.zeros(4, "f"), "sums": np.zeros((12, 3), "f")}
    given_ = {"products": np.zeros((2, 6)), **right}
    assert (buckets().run(None, given_)[0] == 0).all()
    with pytest.raises(Exception, match="recsys.BucketInterest: the sums do not fit the signatures"):
        buckets().run(None, {**given_, name: np.zeros(shape, given_[name].dtype)})


@runs_vnni
@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 1 << 30),
    S=st.integers(1, 60),
    D=st.integers(1, 70),
    H=st.integers(1, 130),
    size=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
)
def test_the_folded_layer_is_its_definition(seed: int, S: int, D: int, H: int, size: float) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    keys = random.normal(size=(S, D)).astype(np.float32)
    folded = (size * random.normal(size=(D, 2, H))).astype(np.float32)
    got, unit = weight().run(None, {"keys": keys, "folded": folded})
    whole = np.einsum("sd,dh->dsh", keys, folded[:, 0], dtype=np.float64) + folded[:, 1][:, None]
    expected = max(np.abs(whole).max(), 2.0**-100) / 127
    assert unit == pytest.approx(expected, rel=1e-6)
    assert got.shape == (D, S, H) and got.dtype == np.int8
    assert np.abs(got - whole / expected).max() <= 0.5 + 1e-3
    assert size == 0.0 or np.abs(got).max() == 127


@runs_vnni
def test_a_folded_layer_that_does_not_fit_the_keys_is_refused() -> None:
    with pytest.raises(Exception, match="recsys.AttentionWeight: weights do not fit the keys"):
        weight().run(None, {"keys": np.ones((2, 3), "f"), "folded": np.ones((4, 2, 5), "f")})


KEYS = np.array([3, 1 << 40, (1 << 62) - 1, 7, 0, (1 << 31) - 1, 1 << 31])
TABLE = build_id_table(KEYS, np.arange(1, len(KEYS) + 1), capacity=40)
ID_ROWS = ("keys", "of_low", "of_folded", "offset", "count", "first", "table")


@cache
def rows_of(name: str = "IdRows") -> onnxruntime.InferenceSession:
    node = helper.make_node(name, ID_ROWS, ["rows"], domain="recsys")
    return session(node, {name: (INT64, None) for name in ID_ROWS}, {"rows": INT64})


def hashes() -> dict[str, Int64Array]:
    """What ``hash_all`` multiplies with and adds, for both buckets of a key."""
    half = len(TABLE.keys_TW) // 2
    a1, a2, b = TABLE.coefficients.T
    columns = {"of_low": (a1 - a2) % PRIME, "of_folded": a2, "offset": b, "count": [half, half], "first": [0, half]}
    made = {name: np.array(column, dtype=np.int64)[:, None] for name, column in columns.items()}
    return {**made, "table": np.concatenate([TABLE.keys_TW, TABLE.rows_TW], axis=1)}


@runs
@settings(deadline=None, max_examples=100)
@given(
    keys=st.lists(st.one_of(st.sampled_from([*KEYS.tolist(), -1, -2]), st.integers(0, (1 << 62) - 1)), max_size=600),
    columns=st.sampled_from([None, 1, 2]),
)
def test_rows_of_ids_are_those_of_the_id_table(keys: list[int], columns: int | None) -> None:
    asked = np.array(keys, dtype=np.int64)
    asked = asked if columns is None else asked[: len(asked) // columns * columns].reshape(-1, columns)
    (got,) = rows_of().run(None, {"keys": asked, **hashes()})
    np.testing.assert_array_equal(got, TABLE.lookup(asked))
    assert got.shape == asked.shape


@runs
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 30), tables=st.integers(1, 5), keys=st.integers(0, 400), more=st.booleans())
def test_rows_of_stacked_ids_are_those_of_each_table(seed: int, tables: int, keys: int, more: bool) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    known = [np.unique(random.integers(0, 1 << 62, size=1 + 30 * place)) for place in range(tables)]
    made = [build_id_table(ids, np.arange(1, len(ids) + 1), seed=place) for place, ids in enumerate(known)]
    asked = np.stack([random.choice(np.concatenate([ids, known[0] ^ 1, [-1]]), size=2 * keys) for ids in known])
    asked = asked.reshape(tables, keys, 2) if more else asked
    a1, a2, b = np.stack([table.coefficients for table in made]).transpose(2, 1, 0)  # [2, M] each
    half = np.array([len(table.keys_TW) // 2 for table in made])
    before = np.cumsum([0, *(2 * half)])[:-1]
    inputs = {"of_low": (a1 - a2) % PRIME, "of_folded": a2, "offset": b, "count": np.stack([half, half])}
    inputs |= {"first": np.stack([before, before + half])}
    shaped = {name: array.reshape(2, tables, *(1 for _ in asked.shape[1:])) for name, array in inputs.items()}
    slots = np.concatenate([np.concatenate([table.keys_TW, table.rows_TW], axis=1) for table in made])
    (got,) = rows_of("StackedIdRows").run(None, {"keys": asked, **shaped, "table": slots})
    expected = np.stack([table.lookup(ids) for table, ids in zip(made, asked, strict=True)])
    np.testing.assert_array_equal(got, expected)


@runs
def test_stacked_tables_that_do_not_fit_their_keys_are_refused() -> None:
    for keys in (KEYS, KEYS.reshape(-1, 1), np.zeros((0, 3), dtype=np.int64)):  # hashes of one table
        with pytest.raises(Exception, match="recsys.StackedIdRows: the table does not fit its hashes"):
            rows_of("StackedIdRows").run(None, {"keys": keys, **hashes()})
    assert rows_of("StackedIdRows").run(None, {"keys": KEYS[None], **hashes()})[0].tolist() == [[*range(1, 8)]]


@runs
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first", np.array([[0], [len(TABLE.keys_TW)]])),
        ("first", np.array([[-1], [0]])),
        ("count", np.array([[1], [np.iinfo(np.int64).max]])),
        ("count", np.array([[0], [1]])),
        ("count", np.array([[1]])),
        ("of_low", np.array([[1], [2], [3]])),
        ("table", TABLE.keys_TW[:, :7]),
        ("table", TABLE.keys_TW[0]),
    ],
)
def test_a_table_that_does_not_fit_its_hashes_is_refused(name: str, value: Int64Array) -> None:
    with pytest.raises(Exception, match="recsys.IdRows: the table does not fit its hashes"):
        rows_of().run(None, {"keys": KEYS, **hashes(), name: value.astype(np.int64)})


def test_sessions_without_the_library_know_none_of_its_operators() -> None:
    options = onnxruntime.SessionOptions()
    assert not use_operators(options, "standard")
    for name in OPERATORS:
        graph = helper.make_graph([helper.make_node(name, [], ["y"], domain="recsys")], "one", [], [])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("recsys", 1)], ir_version=10)
        with pytest.raises(Exception, match=f"{name}.*is not a registered function/op"):
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("compiled", [True, False])
def test_a_fence_is_there_with_and_without_the_library(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(operators, "library", lambda: None)
    operators._fence.cache_clear()
    assert operators.memory_fence() is None  # type: ignore[func-returns-value]
    operators._fence.cache_clear()
