"""Rows of items by their attributes: what is fitted, on what, and what a bundle makes of an item that came later."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from support.planted import ITEMS, ITEMS_EACH, USERS_EACH, planted

from recsys.bundle import open_bundle, read_manifest
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.errors import BundleError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.export.retrieval.by_history import certificate
from recsys.export.retrieval.by_history.linear import model as history_bundle
from recsys.export.retrieval.measure import measure_retrieval_bundle
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import MISSING
from recsys.features.history.records import make_events
from recsys.models.retrieval.attributes import AttributeRows
from recsys.models.retrieval.linear import LinearConfig
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.training.retrieval.config import RetrievalRunConfig, RetrievalTrainConfig
from recsys.training.retrieval.linear.fit import load_fitted
from recsys.training.retrieval.linear.item_rows import encode, fit_item_rows
from recsys.training.retrieval.new_items.length import Length
from recsys.training.retrieval.run import train_any

FIXED = RetrievalRunConfig(
    recipe="small",
    model=LinearConfig(
        ranks=(16,),
        degrees=(0.5,),
        low_pass=(1.0,),
        sharpen=(0.8,),
        neighbours=(10,),
        half_life_events=(0.0,),
        half_life_days=(0.0,),
    ),
    train=RetrievalTrainConfig(list_length=10),
)
COMMUNITY_M = np.arange(ITEMS) // ITEMS_EACH
FEATURES = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=(Categorical(name="brand"), Categorical(name="title"), Numeric(name="size")),
    history=History(),
)


def branded(**columns: Column) -> Interactions:
    """Planted pairs of items whose brand is their community; a title of its own for each, a size that tells nothing."""
    data = planted()
    size = np.random.default_rng(0).normal(size=ITEMS).astype(np.float32)
    return dataclasses.replace(
        data,
        ids=PairIds(features=FEATURES, user_keys_N=np.arange(data.num_users), item_keys_M=np.arange(ITEMS)),
        item_columns={"brand": COMMUNITY_M * 11, "title": np.arange(ITEMS), "size": size, **columns},
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its bundle."""
    path = tmp_path_factory.mktemp("branded")
    train_any(FIXED, branded(), path / "run")
    export_retrieval_bundle(path / "run", branded(), path / "bundle", name="finder")
    return path


def test_a_new_item_is_found_by_those_who_take_what_it_is_like(work: Path) -> None:
    data = branded()
    manifest = read_manifest(work / "bundle")
    said = " ".join(manifest.training["notes"])
    assert "items that come after training get rows by brand, size: fitted to" in said
    assert "features of items that tell none apart, or each from all others, are not read: title" in said
    assert set(manifest.graphs) == {"retrieve", "item", "similar"} and list(manifest.graphs["item"].inputs) == [
        "brand",
        "size",
    ]
    assert manifest.certificate.requests == 2 * data.num_users, "each list with added items, too"
    session = open_retrieval(open_bundle(work / "bundle"))
    made = session.rows({"brand": np.array([22, 99])})
    assert made.usable.tolist() == [True, False]
    added = AddedItems(np.array([1000]), made.rows[:1])
    seen = np.empty(0, dtype=np.int64)
    for community in range(4):
        first = community * ITEMS_EACH
        events = make_events(FEATURES, item=[first, first + 1, first + 2], timestamp_ms=[1, 2, 3])
        got = session.retrieve(community * USERS_EACH, seen, ITEMS + 1, events, added)
        place = got.items.tolist().index(1000)
        assert place < ITEMS_EACH if community == 2 else place > ITEMS_EACH
    of_new = make_events(FEATURES, item=[1000], timestamp_ms=[1])
    twins = AddedItems(np.array([1000, 1001, 1002]), session.rows({"brand": np.array([22, 22, 33])}).rows)
    got = session.retrieve(0, np.array([1000]), ITEMS + 3, of_new, twins)
    places = [got.items.tolist().index(key) for key in (1001, 1002)]
    assert places[0] < ITEMS_EACH < places[1], "its like comes among its brand, another late"
    got = session.retrieve(0, seen, 10, of_new, added)
    assert got.known and (COMMUNITY_M[got.items[got.items < 1000]] == 2).all(), "it stands in a history as others do"


def test_a_bundle_is_measured_with_the_items_that_came_later(work: Path) -> None:
    data = branded()
    assert data.ids is not None
    of_three = data.test.where(data.test.item_E == 3)
    later = dataclasses.replace(data.ids, item_keys_M=np.where(np.arange(ITEMS) == 3, 10_003, np.arange(ITEMS)))
    renamed = dataclasses.replace(data, ids=later, test=of_three)
    measured = measure_retrieval_bundle(work / "bundle", renamed, list_length=ITEMS)
    assert len(of_three) and measured.metrics["recall"] == 1.0
    bare = dataclasses.replace(renamed, item_columns={})
    assert measure_retrieval_bundle(work / "bundle", bare, list_length=ITEMS).metrics["recall"] == 0.0


def test_the_run_keeps_what_it_fitted(work: Path) -> None:
    _, fitted = load_fitted(work / "run", branded())
    assert fitted.attributes is not None
    rows, known = fitted.attributes.rows({"brand": COMMUNITY_M * 11}, ITEMS)
    assert known.tolist() == [1] * ITEMS
    of_brand = fitted.model.rows_MR.reshape(4, ITEMS_EACH, -1).mean(axis=1)[COMMUNITY_M]
    for half in (slice(0, 16), slice(16, 32)):
        like = (rows[:, half] * of_brand[:, half]).sum(axis=1)
        sizes = np.linalg.norm(rows[:, half], axis=1) * np.linalg.norm(of_brand[:, half], axis=1)
        assert np.median(like / sizes) > 0.8, "rows as the mean of the brand's"


def test_what_tells_no_items_apart_is_no_attribute(tmp_path: Path) -> None:
    missing = np.full(ITEMS, MISSING)
    data = branded(brand=missing, size=np.full(ITEMS, np.nan, dtype=np.float32))
    result = train_any(FIXED, data, tmp_path / "run")
    assert result.notes[-2:] == (
        "features of items that tell none apart, or each from all others, are not read: brand, title, size",
        "no feature of items has a value that two items of the training pairs share: an item that came after training "
        "cannot be found",
    )
    assert set(export_retrieval_bundle(tmp_path / "run", data, tmp_path / "bundle", name="finder").graphs) == {
        "retrieve",
        "similar",
    }
    assert read_manifest(tmp_path / "bundle").graphs["retrieve"].inputs.keys() & {"added.items"} == set()


def test_of_many_values_those_of_most_items_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.training.retrieval.linear import item_rows

    monkeypatch.setattr(item_rows, "MOST_VALUES", 2)
    notes: list[str] = []
    brand = np.array([1] * 50 + [2] * 30 + [3] * 10 + [4] * 10)
    made = encode(FEATURES.item[:1], {"brand": brand}, np.ones(ITEMS, dtype=np.bool_), notes)
    assert made.keys["brand"].tolist() == [1, 2]
    assert notes == ["features of items have 4 values: the 2 that most items have count, those with 30 or more"]
    alike = encode(FEATURES.item[:1], {"brand": np.arange(ITEMS) % 5}, np.ones(ITEMS, dtype=np.bool_), notes)
    assert alike.keys["brand"].tolist() == [0, 1], "of ties as many as there is room for"


def test_attributes_that_explain_nothing_make_no_rows() -> None:
    brand = np.random.default_rng(1).permutation(COMMUNITY_M)
    rows = np.random.default_rng(2).normal(size=(ITEMS, 64)).astype(np.float32)
    made = fit_item_rows(rows, np.full(ITEMS, 9, dtype=np.float32), branded(brand=brand), notes=(notes := []))
    assert made is None and "% of the rows of" in notes[-1] and notes[-1].startswith("brand, size: they explain")


def test_rows_are_fitted_to_items_with_enough_pairs(tmp_path: Path) -> None:
    data, rows = branded(), np.zeros((ITEMS, 4), dtype=np.float32)
    pairs = np.where(np.arange(ITEMS) % 2, 5.0, 4.0).astype(np.float32)
    rows[::2] = np.nan
    made = fit_item_rows(rows, pairs, data, notes=[])
    assert made is not None and np.isfinite(made.weights_PR).all()
    bare = dataclasses.replace(ids_of(data), features=dataclasses.replace(FEATURES, item=()))
    assert fit_item_rows(rows, pairs, dataclasses.replace(data, ids=bare, item_columns={}), notes=[]) is None


def test_a_graph_that_makes_other_rows_or_lists_is_not_exported(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = branded()
    with monkeypatch.context() as patched, pytest.raises(BundleError, match="user .*, with added items; allowed"):
        patched.setattr(certificate, "_unused_keys", lambda keys, count: keys[:count])
        export_retrieval_bundle(work / "run", data, tmp_path / "bundle", name="finder")
    write = history_bundle.write_item_graph

    def other(attributes: AttributeRows, *arguments: object) -> object:
        scaled = dataclasses.replace(attributes, weights_PR=attributes.weights_PR * np.float32(1.01))
        return write(scaled, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(history_bundle, "write_item_graph", other)
    with pytest.raises(BundleError, match="a row of ONNX Runtime's differs from the model's by"):
        export_retrieval_bundle(work / "run", data, tmp_path / "bundle", name="finder")
    assert not (tmp_path / "bundle").exists()


def test_the_length_of_rows_is_chosen_by_held_out_items_and_is_that_of_the_items_side_alone() -> None:
    asked = list[tuple[np.ndarray, np.ndarray]]()

    def length_of(items: np.ndarray, rows: np.ndarray) -> Length:
        asked.append((items, rows))
        return Length(times=1.5, items=len(items))

    rows_MR = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)[COMMUNITY_M]
    pairs_M = np.full(ITEMS, 9, dtype=np.float32)
    made = fit_item_rows(rows_MR, pairs_M, branded(), notes=(notes := []), length_of=length_of)
    plain = fit_item_rows(rows_MR, pairs_M, branded(), notes=[])
    assert made is not None and plain is not None
    ((items, predicted),) = asked
    assert 0 < len(items) < ITEMS // 4 and notes[-1].startswith("new items' rows have 1.50 times their length")
    assert np.allclose(predicted, rows_MR[items], atol=0.7) and predicted.shape == (len(items), 16)
    columns = {"brand": COMMUNITY_M * 11}
    of_made, of_plain = (each.rows(columns, ITEMS)[0] for each in (made, plain))
    np.testing.assert_array_equal(of_made[:, :8], of_plain[:, :8])
    np.testing.assert_allclose(of_made[:, 8:], 1.5 * of_plain[:, 8:], rtol=1e-5)


def test_held_out_items_have_as_many_places_as_pairs(work: Path) -> None:
    said = next(note for note in read_manifest(work / "bundle").training["notes"] if note.startswith("new items' rows"))
    pairs, places = (float(re.search(text, said)[1]) for text in (r"([0-9.]+)% of the training", r"lists, ([0-9.]+)%"))
    assert places == pytest.approx(pairs, abs=0.6), said
