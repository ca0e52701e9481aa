"""A bundle of ``two_tower`` answers as the model does that it was made of, for any history, user and new item."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exported_walks import export_walks, exported_walks
from support.walks import ALL_ITEMS, FEATURES, GROUP, ITEMS, USERS, walks

from recsys.bundle import RETRIEVE_INPUTS, open_bundle, read_manifest
from recsys.bundle.index import fingerprint_of_files
from recsys.data.interactions.pairs import ids_of, joined, make_pairs
from recsys.errors import BundleError, InvalidInputError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.export.retrieval.by_history.certificate import certify_histories
from recsys.export.retrieval.by_history.two_tower.model import TowerExport
from recsys.export.retrieval.measure import measure_retrieval_bundle
from recsys.export.retrieval.segments import segments_of
from recsys.features.hashing import MISSING
from recsys.features.history.records import Events, make_events
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.inference.retrieval_session import RetrievalSession, open_retrieval
from recsys.training.retrieval.evaluate import evaluate_retrieval_run
from recsys.training.retrieval.two_tower.trained import load_two_tower

KEYS = ids_of(walks()).item_keys_M
NOTHING = np.empty(0, dtype=np.int64)
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def session() -> RetrievalSession:
    return open_retrieval(open_bundle(exported_walks()))


def walked(items: Sequence[int], *, keys: np.ndarray = KEYS, hours: int = 20) -> Events:  # type: ignore[type-arg]
    count = len(items)
    return make_events(
        FEATURES,
        item=[int(keys[item]) if item < len(keys) else 10**9 + item for item in items],
        timestamp_ms=[1_700_000_000_000 + hours * HOUR_MS * place for place in range(count)],
        attributes={"group": [None] * count, "action": [item % 3 for item in items]},
    )


def test_the_manifest_says_what_the_graphs_read_and_how_they_were_compared() -> None:
    made = read_manifest(exported_walks())
    assert made.knows_users_by == "history" and set(made.graphs) == {"retrieve", "item", "similar"}
    assert set(made.item_inputs) == {"group", "tags", "price"}, "no id: an item whose id is known is in the bundle"
    read = set(made.graphs["retrieve"].inputs) - {*RETRIEVE_INPUTS}
    assert {"added.items", "added.places", "added.rows"} < read
    read = {name for name in read if not name.startswith("added.")}
    assert read == {"history.item_id", "history.timestamp", "history.action", "age", "country"}
    assert made.certificate.requests == 2 * USERS and made.certificate.max_abs_logit_difference < 1e-5
    assert set(made.numbers) == {"age", "item.price"} and made.certificate.compared.startswith("torch ")
    test = evaluate_retrieval_run(exported_walks().parent / "run", walks(), "test")
    assert made.metrics["recall"] == test.recall > 0.8
    assert made.index_fingerprint == fingerprint_of_files(made.files) != ""
    first_of_each, of_new = made.training["notes"]
    assert of_new.startswith("new items' rows have ")
    assert first_of_each.startswith(f"{USERS} of {len(walks().train)} training pairs come before any other event")
    assert "user_id.rows" not in made.tables and made.tables["item_id.rows"].shape == (ALL_ITEMS + 1, 16)


def test_a_new_item_whose_row_in_the_bundle_is_not_that_of_its_attributes_is_refused(tmp_path: Path) -> None:
    export = TowerExport(exported_walks().parent / "run", walks())
    row = export.rows_of(np.arange(ALL_ITEMS))
    row[ITEMS] += 0.1
    (tmp_path / "tables").mkdir()
    export._items_MD = torch.from_numpy(row)
    with pytest.raises(BundleError, match="a row of ONNX Runtime's differs from the model's by 1.00e-01"):
        export.write(tmp_path, "int8")


def test_a_bundle_is_measured_by_its_graph_as_its_run_was_by_torch() -> None:
    data = walks()
    both = [
        np.concatenate([getattr(part, name) for part in (data.train, data.validation)]) for name in ("user_E", "item_E")
    ]
    taken = dataclasses.replace(data, train=make_pairs(*both))
    measured = measure_retrieval_bundle(exported_walks(), taken, list_length=3)
    own = read_manifest(exported_walks()).metrics
    assert [measured.metrics[name] for name in ("recall", "ndcg")] == pytest.approx([own["recall"], own["ndcg"]])


def test_a_log_of_pairs_alone_is_refused_by_the_fields_of_events_that_it_lacks() -> None:
    bare = dataclasses.replace(walks(), histories={})
    with pytest.raises(
        InvalidInputError, match="the model reads (timestamp, action|action, timestamp) of each event, which these eve"
    ):
        measure_retrieval_bundle(exported_walks(), bare, list_length=3)


def test_the_next_item_follows_the_newest_event_whoever_the_user_is(session: RetrievalSession) -> None:
    hits = 0
    for start in range(0, ITEMS, 7):
        items = [(start + step) % ITEMS for step in range(8)]
        got = session.retrieve(10**12, KEYS[items], 3, walked(items))
        assert got.known and got.history_known == 8
        hits += int(KEYS[(start + 8) % ITEMS] in got.items)
    assert hits >= 7


def test_events_beyond_the_window_and_of_unknown_items_change_nothing(session: RetrievalSession) -> None:
    items = [(3 * step) % ITEMS for step in range(20)]
    newest = walked(items)
    expected = session.retrieve(1, NOTHING, 9, newest)
    assert expected.history_known == 20
    more = np.concatenate([walked([50, 51, 52]), newest])
    got = session.retrieve(1, NOTHING, 9, more)
    assert got.items.tolist() == expected.items.tolist() and got.scores.tolist() == expected.scores.tolist()
    unknown = walked([ALL_ITEMS + 5])
    unknown["timestamp"] = newest["timestamp"][9]
    got = session.retrieve(1, NOTHING, 9, np.concatenate([newest[:10], unknown, newest[10:]]))
    assert got.items.tolist() == expected.items.tolist() and (got.history_known, got.history_unknown) == (20, 1)


def test_a_long_history_is_read_as_far_as_the_model_reads_and_as_torch_reads_it(tmp_path: Path) -> None:
    window, long_history, count = 3, 40, 100_000
    bundle = export_walks(
        tmp_path, f"model.window={window}", f"model.long_history={long_history}", "model.interests=2"
    )  # compared with torch, with added items too
    assert read_manifest(bundle).certificate.requests == 2 * USERS
    session = open_retrieval(open_bundle(bundle))
    items = np.random.default_rng(0).integers(0, ITEMS, count).tolist()
    expected = session.retrieve(1, NOTHING, 9, walked(items[-window - long_history :], hours=1))
    longer = walked(items, hours=1)
    longer["timestamp"] -= longer["timestamp"][-1] - walked(items[-window - long_history :], hours=1)["timestamp"][-1]
    got = session.retrieve(1, NOTHING, 9, longer)
    assert got.history_known == count
    assert got.items.tolist() == expected.items.tolist() and got.scores.tolist() == expected.scores.tolist()
    one_less = session.retrieve(1, NOTHING, 9, longer[1 - window - long_history :])
    assert one_less.scores.tolist() != expected.scores.tolist(), "the oldest of them counts, too"


@pytest.mark.prove
def test_who_has_no_event_gets_what_is_popular_with_the_segment_by_a_feature_that_the_model_reads_too(
    session: RetrievalSession, tmp_path: Path
) -> None:
    data, run = walks(), exported_walks().parent / "run"
    segments = segments_of(data, "country", 0.0)
    made = export_retrieval_bundle(run, data, tmp_path / "own", name="walker", segments=segments)
    assert made.graphs["retrieve"].inputs == read_manifest(exported_walks()).graphs["retrieve"].inputs
    own = open_retrieval(open_bundle(tmp_path / "own"))
    assert set(own.user_inputs) == {"age", "country"}
    taken, of_E = joined(data.train, data.validation), data.user_columns["country"]
    row = AddedItems(np.array([10**9]), own.rows({"price": np.array([9.0], dtype=np.float32)}).rows)
    for country in range(3):
        user = {"country": np.array([country])}
        count_M = np.bincount(taken.item_E[of_E[taken.user_E] == country], minlength=ALL_ITEMS)
        for added in (None, row):
            got = own.retrieve(1000, NOTHING, 5, added=added, user=user)
            items = np.searchsorted(KEYS, got.items)
            assert got.segment and not got.known and len(set(items.tolist())) == 5
            assert count_M[items].tolist() == np.sort(count_M)[::-1][:5].tolist()
        events = walked([3, 4, 5])
        known, before = (each.retrieve(1000, NOTHING, 5, events, user=user) for each in (own, session))
        assert known.known and not known.segment and known.scores.tolist() == before.scores.tolist()
    unknown, before = (
        own.retrieve(1000, NOTHING, 5, user={"country": np.array([77])}),
        session.retrieve(1000, NOTHING, 5),
    )
    assert not unknown.segment and unknown.items.tolist() == before.items.tolist()


@pytest.mark.parametrize("items", [[], [ALL_ITEMS + 1]])
def test_who_has_no_event_of_a_known_item_gets_what_is_popular(items: list[int], session: RetrievalSession) -> None:
    data = walks()
    taken_M = np.bincount(data.train.item_E, minlength=ALL_ITEMS)
    got = session.retrieve(1000, NOTHING, 5, walked(items) if items else None)
    assert not got.known and got.scores.tolist() == np.sort(taken_M)[::-1][:5].tolist()


def test_features_of_the_user_and_times_count(session: RetrievalSession) -> None:
    assert session.user_inputs == ("age", "country")
    events, scores = walked([1, 2, 3]), []
    for user in (
        None,
        {},
        {"country": np.array([1])},
        {"country": np.array([2])},
        {"age": np.array([70.0], np.float32)},
    ):
        found = session.retrieve(1, NOTHING, ALL_ITEMS, events, user=user)
        scores.append(dict(zip(found.items.tolist(), found.scores.tolist(), strict=True)))
    assert scores[0] == scores[1] and len({tuple(sorted(each.items())) for each in scores}) == 4
    fast = session.retrieve(1, NOTHING, ALL_ITEMS, walked([1, 2, 3], hours=1))
    assert dict(zip(fast.items.tolist(), fast.scores.tolist(), strict=True)) != scores[0]


def test_an_item_that_came_later_is_found_by_its_attributes_and_stands_in_a_history(session: RetrievalSession) -> None:
    group = 4
    made = session.rows(
        {
            "group": np.array([group, MISSING]),
            "tags": np.array([[group, MISSING], [MISSING, MISSING]]),
            "price": np.array([9.0, np.nan], dtype=np.float32),
        }
    )
    assert made.known.tolist() == [3, 0] and made.usable.tolist() == [True, False]
    length = load_two_tower(exported_walks().parent / "run", walks())[1].length
    np.testing.assert_allclose(np.linalg.norm(made.rows[0]), length.times, rtol=1e-5)
    assert length.times != 1.0 and str(length) in read_manifest(exported_walks()).training["notes"]
    added = AddedItems(np.array([10**9]), made.rows[:1])
    places = []
    for start in (group * GROUP - 2, *((group + n) * GROUP for n in range(2, 11))):
        got = session.retrieve(1, NOTHING, ALL_ITEMS + 1, walked([start - 2, start - 1, start]), added)
        places.append(got.items.tolist().index(10**9))
    assert places[0] < 15 < np.median(places[1:]), "near those who are about to come to its group"
    got = session.retrieve(1, NOTHING, 8, walked([ALL_ITEMS], keys=np.append(KEYS, 10**9)), added)
    groups = [np.flatnonzero(KEYS == key)[0] for key in got.items if key != 10**9]
    near = {group - 1, group, group + 1}
    assert got.known and np.mean([(item // GROUP if item < ITEMS else item - ITEMS) in near for item in groups]) > 0.7


def test_a_graph_that_answers_otherwise_gets_no_certificate() -> None:
    data = walks()
    trained = TowerExport(exported_walks().parent / "run", data)

    def certify() -> None:
        certify_histories(
            exported_walks() / "retrieve.onnx",
            trained,
            ids_of(data),
            events=trained.events,
            users=np.unique(data.test.user_E),
            list_length=3,
        )

    certify()
    with torch.no_grad():
        trained._items_MD[7] *= 1.01
    with pytest.raises(BundleError, match="a score of ONNX Runtime's list differs from the model's by"):
        certify()


@pytest.mark.prove
@pytest.mark.parametrize(
    "changes",
    [
        ("model.interests=3", "model.layers=2"),
        ("model.time_gaps=false", "model.id_dropout=0"),
        ("rows.map=hash", "rows.budget=0.5", "model.attribute_dim=16"),
        ("rows.map=unified", "rows.chunks=1", "model.attribute_dim=16"),
    ],
    ids=["interests", "no item graph", "hashed", "unified"],
)
def test_every_kind_of_model_has_a_bundle(changes: tuple[str, ...], tmp_path: Path) -> None:
    path = export_walks(tmp_path, *changes, "train.epochs=2")
    made = read_manifest(path)
    assert made.certificate.requests == USERS * len(made.graphs)
    assert ("item" in made.graphs) == ("model.id_dropout=0" not in changes)
    assert ("history.timestamp" in made.graphs["retrieve"].inputs) == ("model.time_gaps=false" not in changes)
    assert open_retrieval(open_bundle(path)).retrieve(1, NOTHING, 3, walked([1, 2, 3])).known
