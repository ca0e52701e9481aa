"""Runs that grow by a new log: what answers, what stays, and what the folder holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import CONFIG, PLAIN, folder_of_this_process, odd_config, odd_dataset, tiny_dataset

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import id_counts, map_ids
from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.embeddings.sharding.shard import optimizer_state, table_weights
from recsys.embeddings.tables import input_tables
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.evaluate import predict
from recsys.export.onnx import export_bundle
from recsys.training.config import RowConfig
from recsys.training.loop import train
from recsys.training.run.folder import load_row_maps
from recsys.training.tables.growth.grow import GrowthOptions, TableGrowth, grow_run, seen_ids
from recsys.training.trained import TrainedModel, evaluate_run, load_run

VOCABULARY = RowConfig(min_count=20, unknown_rows=3, spare_rows=0.1)
GRAPH = RowConfig(map="graph", maps={"movie_id": "graph"}, exact_below=50, budget=0.4, spare_rows=0.2)


@cache
def _old(graph: bool = False) -> Path:
    folder = folder_of_this_process() / "run"
    config = replace(CONFIG, rows=GRAPH if graph else VOCABULARY, train=replace(CONFIG.train, epochs=1))
    train(config, tiny_dataset(), folder)
    return folder


@cache
def _log() -> Dataset:
    """A later log: 20 new users, and movies that the first log holds."""
    return prepare_movielens(
        make_synthetic_log(users=170, events_per_user=30, items=60, seed=1), folder_of_this_process()
    )


def _grow(out: Path, options: GrowthOptions, graph: bool = False) -> dict[str, TableGrowth]:
    told = grow_run(_old(graph), out, _log(), options=options, trained_on=tiny_dataset)
    return {each.table: each for each in told}


def _logits(trained: TrainedModel, dataset: Dataset) -> np.ndarray:
    mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in trained.row_maps.items()})
    return predict(trained.model, mapped, np.arange(len(dataset)), convert=trained.convert, device=trained.device)


def _new_keys(table: str, grown: Path) -> tuple[Int64Array, Int64Array]:
    """Keys that a grown run's map knows and the old one does not, and the reverse."""
    keys = [load_row_maps(run / "row_maps.npz")[table].ids.entries()[0] for run in (grown, _old())]  # type: ignore[union-attr]
    return np.setdiff1d(*keys), np.setdiff1d(*keys[::-1])


def test_admitted_ids_get_rows_of_their_own_and_no_answer_changes(tmp_path: Path) -> None:
    told = _grow(tmp_path / "new", GrowthOptions(admit_count=10))
    old, new = load_run(_old()), load_run(tmp_path / "new")
    admitted, evicted = _new_keys("user_id", tmp_path / "new")
    assert len(admitted) == told["user_id"].admitted > 0 and not len(evicted)
    rows = new.row_maps["user_id"].lookup(admitted)[:, 0]
    assert set(rows) <= set(old.row_maps["user_id"].spare_rows)
    was = table_weights(old.model)["user_id"][old.row_maps["user_id"].lookup(admitted)[:, 0]]
    np.testing.assert_array_equal(table_weights(new.model)["user_id"][rows].numpy(), was.numpy())
    for dataset in (tiny_dataset(), _log()):
        np.testing.assert_array_equal(_logits(new, dataset), _logits(old, dataset))
    assert evaluate_run(new, tiny_dataset(), "test") == evaluate_run(old, tiny_dataset(), "test")


def test_ids_that_find_no_room_are_told(tmp_path: Path) -> None:
    told = _grow(tmp_path / "new", GrowthOptions(admit_count=10))["user_id"]
    ids, counts = id_counts(_log(), np.arange(len(_log())))["user_id"]
    known = load_row_maps(_old() / "row_maps.npz")["user_id"]
    wanted = ids[(counts >= 10) & (known.ids.lookup(ids) == 0)]  # type: ignore[union-attr]
    assert told.admitted == min(len(known.spare_rows), len(wanted))
    assert told.no_room == len(wanted) - told.admitted > 0
    assert told.room == len(known.spare_rows) - told.admitted


def test_samples_without_an_evicted_id_are_answered_as_before(tmp_path: Path) -> None:
    _grow(tmp_path / "new", GrowthOptions(admit_count=10, evict="unseen"))
    old, new = load_run(_old()), load_run(tmp_path / "new")
    evicted = {table: _new_keys(table, tmp_path / "new")[1] for table in old.row_maps}
    some = np.arange(0, len(tiny_dataset()), 20)
    tables = input_tables(tiny_dataset().table.features)
    touched = []
    for sample in some:
        batch = make_batch(tiny_dataset(), np.array([sample]))
        columns = {**batch.user, **{f"item.{n}": c for n, c in batch.item.items()}, **batch.history}
        touched.append(any(np.isin(c, evicted[tables[n]]).any() for n, c in columns.items() if n in tables))
    untouched = some[~np.array(touched)]
    assert 0 < len(untouched) < len(some)
    before, after = _logits(old, tiny_dataset()), _logits(new, tiny_dataset())
    np.testing.assert_allclose(after[untouched], before[untouched], rtol=0, atol=1e-6)  # batches differ elsewhere
    assert (np.abs(after - before)[some[np.array(touched)]] > 1e-4).any()


def test_evicted_ids_are_those_the_log_does_not_hold_and_answer_unknown(tmp_path: Path) -> None:
    told = _grow(tmp_path / "new", GrowthOptions(evict="unseen", admit_count=1000))
    counts = id_counts(_log(), np.arange(len(_log())))
    assert sum(each.evicted for each in told.values()) > 0
    old, new = load_row_maps(_old() / "row_maps.npz"), load_row_maps(tmp_path / "new" / "row_maps.npz")
    trained = load_run(tmp_path / "new")
    for table, each in told.items():
        known = old[table].ids.entries()[0]  # type: ignore[union-attr]
        evicted = np.setdiff1d(known, counts[table][0])
        assert each.evicted == len(evicted)
        assert (new[table].lookup(evicted)[:, 0] >= new[table].lookups[0].num_rows - 3).all(), "the unknown rows"
        freed = old[table].lookup(evicted)[:, 0]
        assert set(freed) <= set(new[table].spare_rows)
        rows = table_weights(trained.model)[table]
        assert (rows[freed] == rows[0]).all()


def test_new_rows_have_no_optimizer_state_and_the_others_keep_theirs(tmp_path: Path) -> None:
    _grow(tmp_path / "new", GrowthOptions(admit_count=10, evict="unseen"))
    config = replace(CONFIG, rows=VOCABULARY, train=replace(CONFIG.train, epochs=1))
    folders = {"old": tmp_path / "copy", "new": tmp_path / "new"}
    folders["old"].mkdir()
    for file in _old().iterdir():
        (folders["old"] / file.name).write_bytes(file.read_bytes())
    # Resumed after its last step, a run only evaluates: the state is that of the checkpoint.
    states = {}
    for name, folder in folders.items():
        result = train(config, tiny_dataset(), folder, resume=True)
        assert (folder / "metrics.json").exists()
        states[name] = {key: s.clone() for key, s in optimizer_state(result.trained.model).items()}
    admitted, evicted = _new_keys("user_id", tmp_path / "new")
    maps = load_row_maps(_old() / "row_maps.npz"), load_row_maps(tmp_path / "new" / "row_maps.npz")
    changed = np.union1d(maps[0]["user_id"].lookup(evicted)[:, 0], maps[1]["user_id"].lookup(admitted)[:, 0])
    kept = np.setdiff1d(np.arange(maps[0]["user_id"].lookups[0].num_rows), changed)
    (name,) = (key for key in states["new"] if key.startswith("table_user_id."))
    assert len(changed) and (states["new"][name][changed] == 0).all()
    np.testing.assert_array_equal(states["new"][name][kept].numpy(), states["old"][name][kept].numpy())


def test_a_grown_run_exports_to_the_same_graphs(tmp_path: Path) -> None:
    dataset = odd_dataset(PLAIN, tmp_path)
    ids, counts = id_counts(dataset, dataset.split("train"))["user"]
    rows = RowConfig(min_count=int(np.sort(counts)[5]), spare_rows=0.2, unknown_rows=2)
    train(replace(odd_config(), rows=rows), dataset, tmp_path / "old")
    (told,) = [
        each
        for each in grow_run(
            tmp_path / "old", tmp_path / "new", dataset, options=GrowthOptions(), trained_on=lambda: dataset
        )
        if each.table == "user"
    ]
    assert (told.admitted, told.no_room) == (2, 3)
    bundles = [
        export_bundle(load_run(tmp_path / name), dataset, tmp_path / f"{name}_bundle", name="m")
        for name in ("old", "new")
    ]
    assert bundles[0].tables == bundles[1].tables
    old, new = (
        {f.name: _sha(f) for f in (tmp_path / name).rglob("*.*") if f.is_file()}
        for name in ("old_bundle", "new_bundle")
    )
    changed = {name for name in old if old[name] != new[name]} - {"manifest.json"}
    tables = bundles[0].tables
    assert changed == {Path(tables[f"user.{what}"].file).name for what in ("rows", "ids")}
    for name, info in tables.items():
        rows = [info.read(tmp_path / folder) for folder in ("old_bundle", "new_bundle")]
        assert np.array_equal(*rows) == (not name.startswith("user.")), name


def test_the_old_run_stays_as_it_is_and_the_new_one_says_what_became_of_it(tmp_path: Path) -> None:
    before = {file.name: _sha(file) for file in _old().iterdir()}
    told = _grow(tmp_path / "new", GrowthOptions(admit_count=10))
    assert {file.name: _sha(file) for file in _old().iterdir()} == before
    assert {file.name for file in (tmp_path / "new").iterdir()} == {*before, "growth.json"} - {
        "metrics.json",
        "record.json",
        "predictions.npz",
    }
    facts = json.loads((tmp_path / "new" / "growth.json").read_text())
    assert facts["admit_count"] == 10 and facts["tables"] == [vars(each) for each in told.values()]
    with pytest.raises(ConfigError, match="new exists already: choose another folder"):
        _grow(tmp_path / "new", GrowthOptions())


def test_a_grown_run_grows_again(tmp_path: Path) -> None:
    _grow(tmp_path / "once", GrowthOptions(admit_count=10))
    options = GrowthOptions(admit_count=10, evict="unseen")
    again = grow_run(tmp_path / "once", tmp_path / "twice", _log(), options=options, trained_on=tiny_dataset)
    at_once = _grow(tmp_path / "at_once", options)
    assert [each.known for each in again] == [each.known for each in at_once.values()]


def test_ids_join_clusters_and_known_ids_keep_theirs(tmp_path: Path) -> None:
    told = _grow(tmp_path / "new", GrowthOptions(admit_count=10), graph=True)
    old, new = (load_row_maps(run / "row_maps.npz") for run in (_old(graph=True), tmp_path / "new"))
    assert told["user_id"].kind == told["movie_id"].kind == "graph"
    known = old["user_id"].ids.entries()[0]  # type: ignore[union-attr]
    np.testing.assert_array_equal(new["user_id"].lookup(known), old["user_id"].lookup(known))
    newcomers = np.setdiff1d(_log().table.user_keys, tiny_dataset().table.user_keys)
    assert told["user_id"].admitted == len(newcomers) == 20
    assert (new["user_id"].ids.lookup(newcomers) > 0).all()  # type: ignore[union-attr]
    before, after = (_logits(load_run(run), tiny_dataset()) for run in (_old(graph=True), tmp_path / "new"))
    np.testing.assert_array_equal(after, before)


def test_clustered_anew_nearly_all_ids_keep_their_rows(tmp_path: Path) -> None:
    told = _grow(tmp_path / "new", GrowthOptions(admit_count=10, recluster=True), graph=True)
    old, new = (load_row_maps(run / "row_maps.npz") for run in (_old(graph=True), tmp_path / "new"))
    known = old["user_id"].ids.entries()[0]  # type: ignore[union-attr]
    stays = old["user_id"].lookup(known) == new["user_id"].lookup(known)
    assert stays.mean() > 0.8
    assert 0 < told["user_id"].admitted <= 20
    assert evaluate_run(load_run(tmp_path / "new"), tiny_dataset(), "test") is not None


def test_the_last_time_is_that_of_the_newest_event_or_sample_with_the_id() -> None:
    seen = seen_ids(_log())
    table = _log().table
    for user in (0, 3, 100):
        key = table.user_keys[user]
        times = table.timestamp_ms[table.offsets[user] : table.offsets[user + 1]]
        at = np.searchsorted(seen["user_id"].ids_V, key)
        assert seen["user_id"].ids_V[at] == key and seen["user_id"].last_ms_V[at] == times.max()
    genre = int(seen["genre"].ids_V[2])
    of_items = (np.asarray(table.items["genres"]) == genre).any(axis=1)
    assert seen["genre"].last_ms_V[2] == table.timestamp_ms[of_items[table.item_index]].max()


def test_a_log_of_other_features_or_without_samples_is_refused(tmp_path: Path) -> None:
    options = GrowthOptions()
    with pytest.raises(ConfigError, match="other features than .* was trained on"):
        grow_run(_old(), tmp_path / "new", odd_dataset(PLAIN, tmp_path), options=options, trained_on=tiny_dataset)
    none = np.zeros(0, dtype=np.int64)
    samples = replace(_log().samples, position=none, label=none.astype(np.uint8), splits={})
    with pytest.raises(InvalidInputError, match="the new log holds no samples"):
        grow_run(_old(), tmp_path / "new", replace(_log(), samples=samples), options=options, trained_on=tiny_dataset)
    assert not (tmp_path / "new").exists()


def test_clusters_of_other_data_than_the_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run was trained on other data"):
        grow_run(_old(graph=True), tmp_path / "new", _log(), options=GrowthOptions(admit_count=10), trained_on=_log)


def _sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
