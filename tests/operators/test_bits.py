"""The operator ``TopItemsByBits`` scores the rows that codes of few bits put first, on every kind of processor.

Of the definition in numpy: the rows' order by codes, the first R of it, ties with the last included, and the best k of
these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.searches import LIBRARY, SCANS, check, inputs, scores_of, session_of

from recsys.arrays import Float64Array, Int64Array
from recsys.export.retrieval.bits import TOGETHER, bit_codes, rotation_of
from recsys.operators import library

if library() is None:
    pytest.skip("the operators were not compiled", allow_module_level=True)

MOST_NUMBER = 31
"""Of the user's turned numbers, as whole ones (``planes.h``)."""


@pytest.fixture(params=SCANS, autouse=True)
def scan(request: pytest.FixtureRequest) -> Iterator[int]:
    LIBRARY.recsys_choose_scan(request.param)
    yield request.param
    LIBRARY.recsys_choose_scan(-1)


def run(made: dict[str, Any], operators: str = "auto", **body: Any) -> Any:
    return session_of("TopItemsByBits", operators, **body).run(None, made)


def order_of(made: dict[str, Any]) -> Float64Array:
    """Numbers by which rows are put in order, without those that cannot be found, [M + 1]."""
    bits, columns = made["codes"].shape[1], len(made["rotation"])
    planes = np.unpackbits(made["codes"], axis=2, bitorder="little").astype(np.int64)
    codes = 2 * (planes * 2 ** np.arange(bits)[:, None]).sum(axis=1) - (2**bits - 1)
    assert codes.shape == (len(made["items"]), columns)
    best = np.full(len(codes), -np.inf)
    for user in made["user"].T.astype(np.float64):
        turned = made["rotation"].astype(np.float64) @ user
        largest = np.abs(turned).max()
        numbers = np.rint(turned / largest * MOST_NUMBER) if largest else np.zeros(columns)
        product = codes @ numbers * (largest / MOST_NUMBER)
        best = np.maximum(best, made["scales"][:, 0] * (product + np.linalg.norm(turned)))
    np.add.at(best, made["addition_rows"], made["additions"].astype(np.float64))
    best[np.isneginf(scores_of(made)[: len(best)])] = -np.inf
    return best


def rounding_decides(made: dict[str, Any], rows: int) -> bool:
    """True if some row's order is that of the last row which is scored, but for rounding, and not the same."""
    order = np.sort(order_of(made))[::-1]
    rows = max(rows, int(made["k"]))
    order = order[np.isfinite(order)]
    if not 0 < rows < len(order):
        return False
    near = np.abs(order - order[rows - 1]) < 1e-5 * np.abs(order).max()
    return bool((near & (order != order[rows - 1])).any())


def lists_of(made: dict[str, Any], rows: int) -> Int64Array:
    """The list that scoring the first rows of the order gives."""
    order, scores = order_of(made), scores_of(made)
    wanted = np.ones(len(scores), dtype=np.bool_)
    looked_at = len(made["allowed_rows"]) if made["allowed"] == 1 else len(order)
    if looked_at > (rows := max(rows, int(made["k"]))):
        least = np.sort(order)[::-1][min(rows, len(order)) - 1] if rows else np.inf
        wanted[: len(order)] = order >= least
    best = np.lexsort((np.arange(len(scores)), -scores))
    found: Int64Array = best[wanted[best] & (scores[best] > -np.inf)][: int(made["k"])]
    return found


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_list_is_that_of_the_rows_which_codes_put_first(data: st.DataObject) -> None:
    """Rows of zeros, equal ones, one-hot and huge ones, in any width, with any filter, lists longer than the table."""
    integer = st.integers
    M, D, Q = data.draw(integer(0, 150)), data.draw(integer(1, 140)), data.draw(integer(1, 3))
    random = np.random.default_rng(data.draw(integer(0, 2**32)))
    items = random.integers(-200, 201, (M + 1, D)).astype(np.float32)
    kinds = random.integers(0, 8, M + 1)
    items[kinds == 0] = 0
    items[kinds == 1] = items[-1]
    items[kinds == 2] = np.eye(D, dtype=np.float32)[random.integers(0, D, np.count_nonzero(kinds == 2))]
    items[kinds == 3] *= 4096
    items[0] = 0
    user = random.integers(-3, 4, (D, Q)).astype(np.float32) * data.draw(st.sampled_from([1, 1, 1, 0]))
    T, A = data.draw(integer(0, 9)), data.draw(integer(0, 6))
    form = data.draw(st.sampled_from(["all", "list", "mask"]))
    every = M + 1 + A
    allowed = np.flatnonzero(random.random(every) < data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.9])))
    k, rows = data.draw(integer(0, 30)), data.draw(integer(0, 60))
    made = inputs(
        items,
        user,
        k=k,
        bits=data.draw(st.sampled_from([1, 2, 4])),
        reranked=[(k // 2, 1), (k, rows)] if k > 1 else [(k, rows)],
        additions=(random.integers(0, M + 1, T), random.integers(-500, 500, T)),
        added=random.integers(-900, 900, A).astype(np.float32),
        out=random.integers(0, every, data.draw(integer(0, 8))),
        allowed=None if form == "all" else allowed,
        as_mask=form == "mask",
    )
    assume(not rounding_decides(made, rows))
    got, scores = run(made)
    assert got.tolist() == lists_of(made, rows).tolist()
    assert scores.tolist() == scores_of(made)[got].tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("form", ["all", "list", "mask"])
@pytest.mark.parametrize(("M", "D", "Q"), [(5_000, 64, 1), (3_001, 100, 4), (2_500, 33, 2), (400, 600, 1)])
def test_of_any_numbers_it_is_that_list_but_for_rounding(M: int, D: int, Q: int, form: str, bits: int) -> None:
    random = np.random.default_rng(M)
    items = random.normal(size=(M + 1, D)).astype(np.float32)
    items[0] = 0
    allowed = None if form == "all" else np.flatnonzero(random.random(M + 4) < 0.7)
    made = inputs(
        items,
        random.normal(size=(D, Q)).astype(np.float32),
        k=20,
        bits=bits,
        reranked=[(20, 300)],
        additions=(random.integers(1, M + 1, 40), random.normal(size=40) * 9),
        added=random.normal(size=3) * 30,
        out=random.integers(0, M + 4, 200),
        allowed=allowed,
        as_mask=form == "mask",
    )
    rows, scores = run(made)
    expected = lists_of(made, 300)
    np.testing.assert_allclose(scores, scores_of(made)[rows], atol=1e-3, rtol=0)
    np.testing.assert_allclose(scores, scores_of(made)[expected], atol=1e-3, rtol=0)


@pytest.mark.parametrize("reranked", [(), [(4, 4)], [(5, 2_000)]])
def test_where_no_rows_are_stated_for_a_length_or_enough_for_all_the_list_is_exact(reranked: Any) -> None:
    random = np.random.default_rng(7)
    items = random.normal(size=(2_000, 40)).astype(np.float32)
    items[0] = 0
    made = inputs(items, random.normal(size=(40, 1)).astype(np.float32), k=5, bits=1, reranked=reranked)
    check(made, run(made), tolerance=1e-4)


def test_fewer_allowed_than_are_scored_give_the_exact_list() -> None:
    random = np.random.default_rng(8)
    items = random.normal(size=(5_000, 24)).astype(np.float32)
    allowed = np.flatnonzero(random.random(5_000) < 0.01)
    user = random.normal(size=(24, 1)).astype(np.float32)
    for rows in (allowed, allowed[:1], allowed[:0]):
        made = inputs(items, user, k=10, bits=1, reranked=[(10, 100)], allowed=rows)
        check(made, run(made), tolerance=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_never_found(bad: float) -> None:
    items, user = np.ones((90, 8), dtype=np.float32), np.ones((8, 1), dtype=np.float32)
    items[::3] = 2
    made = inputs(items, user, k=60, bits=1, reranked=[(60, 60)])
    made["items"][5, :2] = bad, -bad
    assert 5 not in run(made)[0] and len(run(made)[0]) == 60
    user[3], user[4] = bad, -bad
    assert run(made)[0].tolist() == []
    user[:] = 1
    made["scales"][7] = np.nan  # of a damaged table: the row can be anything, and is scored
    made["items"][7] = 9
    assert run(made)[0][0] == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left_out": np.array([99])}, "there is no such row"),
        ({"allowed": np.array(3)}, "allowed is none of 0, 1, 2"),
        ({"codes": np.zeros((3, 1, 8), np.uint8)}, "the tables and the user's vectors do not fit"),
        ({"codes": np.zeros((20, 0, 8), np.uint8)}, "the tables and the user's vectors do not fit"),
        ({"rotation": np.zeros((60, 8), np.float32)}, "the tables and the user's vectors do not fit"),
        ({"scales": np.zeros((20, 2), np.float32)}, "the tables and the user's vectors do not fit"),
        ({"reranked": np.zeros((1, 3), np.int64)}, "the tables and the user's vectors do not fit"),
        ({"k": np.array(-1)}, "k is negative"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    made = inputs(np.ones((20, 8), np.float32), np.ones((8, 1), np.float32), k=3, bits=1, reranked=[(3, 5)])
    with pytest.raises(Exception, match=message):
        run({**made, **changes})


@pytest.mark.parametrize("form", ["all", "list", "mask"])
def test_the_body_finds_the_exact_list(form: str) -> None:
    random = np.random.default_rng(5)
    made = inputs(
        random.integers(-9, 9, (400, 24)).astype(np.float32),
        random.integers(-9, 9, (24, 2)).astype(np.float32),
        k=50,
        bits=2,
        reranked=[(50, 50)],
        additions=(random.integers(0, 400, 30), random.integers(-99, 99, 30)),
        added=[3.0, -np.inf, 900.0],
        out=[4, 9, 402],
        allowed=None if form == "all" else np.flatnonzero(random.random(403) < 0.4),
        as_mask=form == "mask",
    )
    check(made, run(made, "standard", interests=2, additions=True, added=True), tolerance=0)


@given(seed=st.integers(0, 2**32), width=st.integers(1, 200), bits=st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_a_scale_leaves_the_code_no_error_along_its_row(seed: int, width: int, bits: int) -> None:
    """So that the estimate of a row's product with itself is right, whatever its size; a row of zeros has scale 0."""
    random = np.random.default_rng(seed)
    rows = (random.standard_normal((9, width)) * 10.0 ** random.integers(-30, 15, (9, 1))).astype(np.float32)
    rows[4] = 0
    rotation = rotation_of(width)
    codes, scales = bit_codes(rows, rotation, bits=bits)
    assert codes.shape == (9, bits, len(rotation) // 8) and len(rotation) % TOGETHER == 0 and scales[4, 0] == 0
    levels = (np.unpackbits(codes, axis=2, bitorder="little") * 2 ** np.arange(bits)[:, None]).sum(axis=1)
    turned = rows.astype(np.float64) @ rotation.astype(np.float64).T
    estimate = scales[:, 0].astype(np.float64) * ((2.0 * levels - (2**bits - 1)) * turned).sum(axis=1)
    np.testing.assert_allclose(estimate, (rows.astype(np.float64) ** 2).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("width", [1, 20, 64, 100])
def test_a_rotation_keeps_products(width: int) -> None:
    rotation = rotation_of(width).astype(np.float64)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(width), atol=1e-6)
    assert np.array_equal(rotation_of(width), rotation.astype(np.float32))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_estimate_of_a_product_is_right_on_average_over_rotations(bits: int) -> None:
    random = np.random.default_rng(3)
    row, user = random.standard_normal(64), random.standard_normal(64)
    estimates = []
    for _ in range(400):
        rotation = np.linalg.qr(random.standard_normal((64, 64)))[0].astype(np.float32)
        codes, scales = bit_codes(row[None].astype(np.float32), rotation, bits=bits)
        levels = (np.unpackbits(codes, axis=2, bitorder="little") * 2 ** np.arange(bits)[:, None]).sum(axis=1)
        estimates.append(float(scales[0, 0] * ((2.0 * levels[0] - (2**bits - 1)) @ (rotation @ user))))
    deviation = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - row @ user) < 4 * deviation
