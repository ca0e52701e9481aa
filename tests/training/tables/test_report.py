"""The report on rows, against counts made one id at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import CONFIG, finished, folder_of_this_process, tiny_dataset

from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.errors import ConfigError
from recsys.features.hashing import string_key
from recsys.training.config import RowConfig
from recsys.training.loop import train
from recsys.training.run.folder import load_row_maps
from recsys.training.tables.report import QUANTILES, RunReport, report_run
from recsys.training.trained import load_run

Counts = Mapping[str, tuple[np.ndarray, np.ndarray]]


@cache
def _run(kind: str) -> Path:
    """A run whose maps make ids share rows."""
    if kind == "vocabulary":
        return finished().folder
    rows = {
        "hash": RowConfig(map="hash", budget=0.4),
        "double_hash": RowConfig(map="double_hash", budget=0.3, exact_below=10, spare_rows=0.0),
        "unified": RowConfig(map="unified", budget=0.3, widths=(4, 8)),
        "spare": RowConfig(min_count=40, spare_rows=0.2),
    }[kind]
    config = replace(
        CONFIG,
        rows=rows,
        tables=replace(CONFIG.tables, dims={}),
        train=replace(CONFIG.train, epochs=1),
    )
    folder = folder_of_this_process() / kind
    train(config, tiny_dataset(), folder)
    return folder


@cache
def _report(kind: str) -> RunReport:
    return report_run(_run(kind), tiny_dataset())


@cache
def _counts() -> Counts:
    return id_counts(tiny_dataset(), tiny_dataset().split("train"))


KINDS = ["vocabulary", "hash", "double_hash", "unified", "spare"]


def _places(row_map: RowMap, key: int) -> list[tuple[str, int]]:
    """Physical table and row of each of an id's lookups."""
    rows = row_map.lookup(np.array([key]))[0].tolist()
    return [(lookup.table, row) for lookup, row in zip(row_map.lookups, rows, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_collisions_are_those_that_a_comparison_of_all_pairs_finds(kind: str) -> None:
    row_maps = load_row_maps(_run(kind) / "row_maps.npz")
    for told in _report(kind).ids:
        ids, counts = _counts()[told.table]
        places = [_places(row_maps[told.table], key) for key in ids.tolist()]
        if row_maps[told.table].combine == "sum":
            places = [sorted(each) for each in places]
        collide = [any(places[a] == places[b] for b in range(len(ids)) if b != a) for a in range(len(ids))]
        assert told.colliding_ids == sum(collide), told.table
        assert told.colliding_lookups == pytest.approx(counts[collide].sum() / counts.sum())
        assert told.unknown_ids == sum(all(row == 0 for _, row in each) for each in places)
        assert (told.ids, told.id_lookups) == (len(ids), counts.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_meets_other_tables_if_all_its_rows_are_also_rows_of_theirs(kind: str) -> None:
    row_maps = load_row_maps(_run(kind) / "row_maps.npz")
    places = {
        table: [_places(row_map, key) for key in _counts()[table][0].tolist()] for table, row_map in row_maps.items()
    }
    for told in _report(kind).ids:
        foreign = {place for table, ids in places.items() if table != told.table for each in ids for place in each}
        meets = [all(place in foreign for place in each) for each in places[told.table]]
        counts = _counts()[told.table][1]
        assert told.meeting_ids == sum(meets)
        assert told.meeting_lookups == pytest.approx(counts[meets].sum() / counts.sum())
    assert (sum(told.meeting_ids for told in _report(kind).ids) > 0) == (kind == "unified")


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_row_0_used_spare_or_unused(kind: str) -> None:
    row_maps = load_row_maps(_run(kind) / "row_maps.npz")
    used: dict[str, set[int]] = {}
    for table, row_map in row_maps.items():
        for key in _counts()[table][0].tolist():
            for name, row in _places(row_map, key):
                used.setdefault(name, set()).add(row)
    for told in _report(kind).rows:
        assert told.used == len(used[told.name])
        assert told.used + told.spare + told.unused == told.rows - (0 not in used[told.name])
        assert (told.spare > 0) == (kind == "spare")


@pytest.mark.parametrize("kind", ["vocabulary", "unified", "spare"])
def test_lengths_and_bytes_are_those_of_the_tables(kind: str) -> None:
    from recsys.embeddings.sharding.shard import table_weights

    trained = load_run(_run(kind))
    row_maps, weights = trained.row_maps, table_weights(trained.model)
    for told in _report(kind).rows:
        lengths = weights[told.name].norm(dim=1).numpy()
        used = sorted(
            {
                row
                for table in told.tables
                for key in _counts()[table][0].tolist()
                for name, row in _places(row_maps[table], key)
                if name == told.name
            }
        )
        assert told.norms == pytest.approx(np.quantile(lengths[used], QUANTILES), rel=1e-5)
        assert sum(told.norm_counts) == len(used)
        assert told.zero == (lengths == 0).sum()
        assert (told.rows, told.dim, told.size_bytes) == (*weights[told.name].shape, weights[told.name].nbytes)
        assert told.optimizer_bytes == 4 * told.rows  # row-wise Adagrad keeps a number a row


def test_rows_that_no_gradient_reached_are_those_that_training_never_looked_up() -> None:
    # Row 0 stands in for the candidate's rating, which it gets gradients by; elsewhere no id is missing.
    for told in _report("spare").rows:
        if told.name != "rating":
            assert told.never_updated == told.spare + told.unused + (told.used + told.spare + told.unused < told.rows)
    assert all(told.never_updated is not None for told in _report("unified").rows)


def test_the_hottest_ids_come_first_with_their_counts() -> None:
    for told in _report("vocabulary").ids:
        ids, counts = _counts()[told.table]
        best = sorted(zip((-counts).tolist(), ids.tolist(), strict=True))[:10]
        assert [(-hot.count, hot.key) for hot in told.hottest] == best
        assert told.hottest[0].share == pytest.approx(counts.max() / counts.sum())


def test_features_are_named_with_their_side_and_ids_as_people_know_them() -> None:
    told = {each.table: each for each in _report("vocabulary").ids}
    assert told["movie_id"].features == ("item.movie_id", "history.movie_id")
    assert [hot.id for hot in told["movie_id"].hottest] == [str(hot.key) for hot in told["movie_id"].hottest]
    assert told["gender"].features == ("gender",)
    assert {hot.id: hot.key for hot in told["gender"].hottest} == {"F": string_key("F"), "M": string_key("M")}


def test_a_run_is_reported_with_its_own_data_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in ("config.json", "features.json"):
        (folder / file).write_bytes((finished().folder / file).read_bytes())
    (folder / "data.json").write_text(json.dumps({"fingerprint": "0123456789abcdef"}))
    with pytest.raises(ConfigError, match="the run was trained on other data"):
        report_run(folder, tiny_dataset())
