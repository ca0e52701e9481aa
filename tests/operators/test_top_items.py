"""The operators ``TopItems`` and ``TopScores`` find what the definition in numpy says, on every kind of processor."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from recsys.arrays import Float32Array, Int64Array
from recsys.export.retrieval.codes import item_codes
from recsys.export.retrieval.top_items import top_items, top_scores
from recsys.operators import library, rows_scored, use_operators

if library() is None:
    pytest.skip("the operators were not compiled", allow_module_level=True)

_LIBRARY = ctypes.CDLL(str(library()))
SCANS = range(_LIBRARY.recsys_choose_scan(-1) + 1)
"""Kinds of processors that this one can be."""

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
_INPUTS = {
    "items": (_F32, 2),
    "codes": (TensorProto.INT8, 2),
    "scales": (_F32, 2),
    "user": (_F32, 2),
    "addition_rows": (_I64, 1),
    "additions": (_F32, 1),
    "given_scores": (_F32, 2),
    "added_scores": (_F32, 2),
    "left_out": (_I64, 1),
    "allowed": (_I64, 0),
    "allowed_rows": (_I64, 1),
    "allowed_mask": (TensorProto.UINT8, 1),
    "k": (_I64, 0),
}
_sessions: dict[Any, ort.InferenceSession] = {}


@pytest.fixture(params=SCANS, autouse=True)
def scan(request: pytest.FixtureRequest) -> Iterator[int]:
    _LIBRARY.recsys_choose_scan(request.param)
    yield request.param
    _LIBRARY.recsys_choose_scan(-1)


def session_of(name: str, operators: str, **body: Any) -> ort.InferenceSession:
    """A graph of one call of a function."""
    key = (name, operators, *body.items())
    if key not in _sessions:
        function = top_items(**body) if name == "TopItems" else top_scores(**body)
        inputs = [helper.make_tensor_value_info(each, *_of(each)) for each in function.input]
        outputs = [
            helper.make_tensor_value_info("rows", _I64, [None]),
            helper.make_tensor_value_info("scores", _F32, [None]),
        ]
        graph = helper.make_graph(
            [helper.make_node(name, list(function.input), ["rows", "scores"], domain="recsys")], "one", inputs, outputs
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("recsys", 1)]
        model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        assert use_operators(options, operators) == (operators == "auto")  # type: ignore[arg-type]
        _sessions[key] = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _sessions[key]


def _of(name: str) -> tuple[int, list[None]]:
    kind, dimensions = _INPUTS[name]
    return kind, [None] * dimensions


def inputs(
    items: Float32Array,
    user: Float32Array,
    *,
    k: int,
    coarse: bool = True,
    additions: tuple[Any, Any] = ((), ()),
    added: Any = (),
    out: Any = (),
    allowed: Int64Array | None = None,
    as_mask: bool = False,
) -> dict[str, Any]:
    codes, scales = item_codes(items) if coarse else (np.zeros((0, 0), np.int8), np.zeros((0, 2), np.float32))
    every = len(items) + len(added)
    kind = 0 if allowed is None else 2 if as_mask else 1
    rows = np.zeros(1, np.int64) if allowed is None or as_mask or not len(allowed) else allowed
    mask = np.packbits(np.isin(np.arange(every), allowed), bitorder="little") if as_mask else np.zeros(1, np.uint8)
    return {
        "items": items,
        "codes": codes,
        "scales": scales,
        "user": user,
        "addition_rows": np.array(additions[0], dtype=np.int64),
        "additions": np.array(additions[1], dtype=np.float32),
        "added_scores": np.array(added, dtype=np.float32).reshape(-1, 1),
        "left_out": np.array(out, dtype=np.int64),
        "allowed": np.array(kind, dtype=np.int64),
        "allowed_rows": rows,
        "allowed_mask": mask,
        "k": np.array(k, dtype=np.int64),
    }


def scores_of(given: dict[str, Any]) -> Float32Array:
    """The definition: of all rows, -inf for those that cannot be found."""
    with np.errstate(all="ignore"):
        scores = (given["items"].astype(np.float64) @ given["user"].astype(np.float64)).max(axis=1)
        np.add.at(scores, given["addition_rows"], given["additions"].astype(np.float64))
        scores = np.concatenate([scores, given["added_scores"][:, 0]]).astype(np.float32)
    scores[given["left_out"]] = -np.inf
    scores[0] = -np.inf
    if given["allowed"] == 1:
        scores[~np.isin(np.arange(len(scores)), given["allowed_rows"])] = -np.inf
    if given["allowed"] == 2:
        scores[np.unpackbits(given["allowed_mask"], bitorder="little")[: len(scores)] == 0] = -np.inf
    return scores


def check(given: dict[str, Any], got: tuple[Int64Array, Float32Array], *, tolerance: float) -> None:
    """The list is the definition's, but for rows whose scores are nearly equal."""
    rows, scores = got
    expected = scores_of(given)
    best = np.lexsort((np.arange(len(expected)), -expected))[: int(given["k"])]
    best = best[expected[best] > -np.inf]
    assert len(rows) == len(best) and len(np.unique(rows)) == len(rows)
    np.testing.assert_allclose(scores, expected[rows], atol=tolerance, rtol=0)
    np.testing.assert_allclose(scores, expected[best], atol=tolerance, rtol=0)
    if tolerance == 0:
        assert rows.tolist() == best.tolist()


def run(given: dict[str, Any], operators: str = "auto", **body: Any) -> Any:
    return session_of("TopItems", operators, **body).run(None, given)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_of_whole_numbers_the_list_is_exactly_that_of_the_definition_with_all_its_ties(data: st.DataObject) -> None:
    """Widths are no multiples of anything, lists longer than the table, rows and users of zeros."""
    integer = st.integers
    M, D, Q = data.draw(integer(0, 90)), data.draw(integer(1, 70)), data.draw(integer(1, 3))
    random = np.random.default_rng(data.draw(integer(0, 2**32)))
    most = data.draw(st.sampled_from([1, 3, 200]))
    items = random.integers(-most, most + 1, (M + 1, D)).astype(np.float32)
    items[0] = 0
    items[random.random(M + 1) < 0.2] = 0
    user = random.integers(-3, 4, (D, Q)).astype(np.float32) * data.draw(st.sampled_from([1, 1, 1, 0]))
    T, A = data.draw(integer(0, 9)), data.draw(integer(0, 6))
    added = random.integers(-9, 9, A).astype(np.float32)
    added[random.random(A) < 0.2] = -np.inf
    form = data.draw(st.sampled_from(["all", "list", "mask"]))
    every = M + 1 + A
    share = data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    made = inputs(
        items,
        user,
        k=data.draw(integer(0, M + A + 3)),
        coarse=data.draw(st.booleans()),
        additions=(random.integers(0, M + 1, T), random.integers(-50, 50, T)),
        added=added,
        out=random.integers(0, every, data.draw(integer(0, 8))),
        allowed=None if form == "all" else np.flatnonzero(random.random(every) < share),
        as_mask=form == "mask",
    )
    check(made, run(made), tolerance=0)


@pytest.mark.parametrize(
    ("M", "D", "Q", "k"), [(5_000, 64, 1, 100), (3_001, 100, 4, 20), (2_500, 33, 2, 500), (40, 600, 1, 60)]
)
@pytest.mark.parametrize("form", ["all", "list", "mask"])
def test_of_any_numbers_the_list_is_the_definitions_but_for_rounding(form: str, M: int, D: int, Q: int, k: int) -> None:
    random = np.random.default_rng(M)
    items = random.normal(size=(M + 1, D)).astype(np.float32)
    items[0] = 0
    rows = random.integers(1, M + 1, 40)
    allowed = None if form == "all" else np.flatnonzero(random.random(M + 4) < 0.7)
    made = inputs(
        items,
        random.normal(size=(D, Q)).astype(np.float32),
        k=k,
        additions=(rows, random.normal(size=40) * 9),
        added=random.normal(size=3) * 30,
        out=random.integers(0, M + 4, 200),
        allowed=allowed,
        as_mask=form == "mask",
    )
    check(made, run(made), tolerance=1e-3)


@pytest.mark.parametrize("size", [1e-42, 1e-38, 1e-20, 1e15, 1e18])
def test_tiny_and_huge_rows_are_found_as_others_are(size: float) -> None:
    """Scales that are no normal numbers, errors beyond float32: bounds then say nothing, and rows are scored."""
    random = np.random.default_rng(1)
    items = random.normal(size=(500, 20)).astype(np.float32)
    items[::3] = (items[::3].astype(np.float64) * size).astype(np.float32)
    items[0] = 0
    made = inputs(items, random.normal(size=(20, 1)).astype(np.float32), k=300)
    rows, scores = run(made)
    expected = np.sort(scores_of(made)[1:])[::-1][:300]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert len(np.unique(rows)) == 300


def test_a_row_whose_code_says_nothing_of_it_is_found() -> None:
    """The best row's code is 0 but where the user has nothing; only its error says that it may be best."""
    items = np.zeros((3_000, 16), dtype=np.float32)
    items[1:, 1] = 0.25
    items[7] = [1000.0, *[1.9] * 15]
    made = inputs(items, np.array([[0.0], *[[1.0]] * 15], dtype=np.float32), k=1)
    assert item_codes(items)[0][7].tolist() == [127, *[0] * 15]
    assert run(made)[0].tolist() == [7]


@pytest.mark.parametrize("where", ["user", "items"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("coarse", [False, True])
def test_what_is_no_number_is_never_found(where: str, bad: float, coarse: bool) -> None:
    """Whoever asked gets fewer than there are, or infinity, and refuses both."""
    items, user = np.ones((50, 8), dtype=np.float32), np.ones((8, 1), dtype=np.float32)
    made = inputs(items, user, k=60, coarse=coarse)
    if where == "user":
        user[3] = bad
        user[4] = -bad
    else:
        items[5] = [bad, -bad, *[1] * 6]
    rows, _ = run(made)
    assert rows.tolist() == ([] if where == "user" else [row for row in range(1, 50) if row != 5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left_out": np.array([99])}, "there is no such row"),
        ({"left_out": np.array([-1])}, "there is no such row"),
        ({"allowed": np.array(1), "allowed_rows": np.array([2, 99])}, "there is no such row"),
        ({"allowed": np.array(1), "allowed_rows": np.array([3, 2])}, "rows are not ascending"),
        ({"allowed": np.array(2)}, "the mask is shorter than the rows are many"),
        ({"addition_rows": np.array([30]), "additions": np.ones(1, np.float32)}, "something is added to no row"),
        ({"codes": np.zeros((3, 16), np.int8)}, "the tables and the user's vectors do not fit"),
        ({"user": np.zeros((5, 1), np.float32)}, "the tables and the user's vectors do not fit"),
        ({"k": np.array(-1)}, "k is negative"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    made = inputs(np.ones((20, 8), dtype=np.float32), np.ones((8, 1), dtype=np.float32), k=3)
    with pytest.raises(Exception, match=message):
        run({**made, **changes})


@pytest.mark.parametrize("form", ["all", "list", "mask"])
def test_the_body_finds_what_the_operator_finds(form: str) -> None:
    random = np.random.default_rng(5)
    items = random.integers(-9, 9, (400, 24)).astype(np.float32)
    made = inputs(
        items,
        random.integers(-9, 9, (24, 2)).astype(np.float32),
        k=50,
        additions=(random.integers(0, 400, 30), random.integers(-99, 99, 30)),
        added=[3.0, -np.inf, 900.0],
        out=[4, 9, 402],
        allowed=None if form == "all" else np.flatnonzero(random.random(403) < 0.4),
        as_mask=form == "mask",
    )
    of_body = run(made, "standard", interests=2, additions=True, added=True)
    check(made, of_body, tolerance=0)
    for own, body in zip(run(made), of_body, strict=True):
        assert own.tolist() == body.tolist()


@pytest.mark.parametrize("operators", ["auto", "standard"])
@pytest.mark.parametrize("form", ["all", "list", "mask"])
def test_given_scores_are_searched_as_products_are(form: str, operators: str) -> None:
    random = np.random.default_rng(6)
    scores = random.integers(0, 30, 5_000).astype(np.float32)
    allowed = None if form == "all" else np.flatnonzero(random.random(5_003) < 0.1)
    of = inputs(
        scores[:, None],
        np.ones((1, 1), dtype=np.float32),
        k=300,
        added=[29.0, -np.inf, 1.0],
        out=[7, 5000],
        allowed=allowed,
        as_mask=form == "mask",
    )
    session = session_of("TopScores", operators, added=True)
    given = {"given_scores": scores[:, None], **{name: of[name] for name in list(_INPUTS)[7:]}}
    check(of, session.run(None, given), tolerance=0)


def test_the_rows_that_were_read_are_those_whose_bounds_reach_the_best(scan: int) -> None:
    random = np.random.default_rng(5)
    items, user = (
        random.standard_normal((5_000, 24), dtype=np.float32),
        random.standard_normal((24, 1), dtype=np.float32),
    )
    run(inputs(items, user, k=10))
    coarse = rows_scored()
    # All whose float32 score is the best ten's, and few of the others.
    assert coarse is not None and 10 <= coarse < 500
    run(inputs(items, user, k=10, coarse=False))
    assert rows_scored() == 5_000
    run(inputs(items, user, k=10, allowed=np.array([3, 9, 4_000])))  # a short list is read at once
    assert rows_scored() == 3
    run(inputs(items, user, k=10, allowed=np.arange(1, 1_001), out=[7]))
    assert rows_scored() < 1_000
