"""The operators ``TopItems`` and ``TopScores`` find what the definition in numpy says, on every kind of processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.searches import INPUTS, LIBRARY, SCANS, check, inputs, scores_of, session_of

from recsys.export.retrieval.codes import item_codes
from recsys.operators import library, rows_scored

if library() is None:
    pytest.skip("the operators were not compiled", allow_module_level=True)


@pytest.fixture(params=SCANS, autouse=True)
def scan(request: pytest.FixtureRequest) -> Iterator[int]:
    LIBRARY.recsys_choose_scan(request.param)
    yield request.param
    LIBRARY.recsys_choose_scan(-1)


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
        ({"allowed": np.array(3)}, "allowed is none of 0, 1, 2"),
        ({"allowed": np.array(-1)}, "allowed is none of 0, 1, 2"),
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
    given = {"given_scores": scores[:, None], **{name: of[name] for name in list(INPUTS)[9:]}}
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
