"""The registry's promise: a row map is one file, one line of the registry, and one recipe.

The toy below is what such a file holds: two ids of like frequency share a row.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import NAMESAKES, odd_config, odd_dataset

from recsys.arrays import Int64Array
from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.id_table import build_id_table, most_frequent
from recsys.embeddings.row_maps.method import TrainingIds, per_table
from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import ConfigError
from recsys.export.onnx import export_bundle
from recsys.training.config import RowConfig, RunConfig
from recsys.training.loop import train
from recsys.training.reports import TrainingProgress
from recsys.training.settings import override
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import load_run


def pair_rows(table: str, ids_V: Int64Array, counts_V: Int64Array, *, seed: int) -> RowMap:
    """A row for the two most frequent ids, for the next two, and so on; other ids share row 0."""
    rows_V = 1 + np.arange(len(ids_V)) // 2
    ids = build_id_table(most_frequent(ids_V, counts_V), rows_V, seed=seed)
    return RowMap(kind="pairs", lookups=(Lookup(table=table, num_rows=int(rows_V[-1]) + 1, exact="row"),), ids=ids)


def pairs_map(table: str, training: TrainingIds) -> RowMap:
    return pair_rows(table, *training.counts[table], seed=training.settings.seed)


def recipe() -> RunConfig:
    return replace(odd_config(), rows=RowConfig(maps={"item_id": "pairs", "keys": "pairs"}, min_count=1))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROW_MAPS, "pairs", per_table(pairs_map))


class Killed(Exception):
    pass


def test_a_registered_row_map_is_trained_resumed_and_exported(tmp_path: Path) -> None:
    dataset = odd_dataset(NAMESAKES, tmp_path)
    whole = train(recipe(), dataset, tmp_path / "whole")

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 8:  # a checkpoint every 3 steps
            raise Killed

    with pytest.raises(Killed):
        train(recipe(), dataset, tmp_path / "part", report=kill)
    resumed = train(recipe(), dataset, tmp_path / "part", resume=True)
    assert resumed.test == whole.test

    trained = load_run(tmp_path / "part")
    row_map = trained.row_maps["item_id"]
    ids_V, counts_V = id_counts(dataset, dataset.split("train"))["item_id"]
    order = np.lexsort((ids_V, -counts_V))
    assert row_map.kind == "pairs"
    assert row_map.lookup(ids_V[order])[:, 0].tolist() == [1, 1, 2, 2, 3][: len(ids_V)]
    assert trained.row_maps["user"].kind == "vocabulary"
    manifest = export_bundle(trained, dataset, tmp_path / "bundle", name="pairs")
    assert manifest.tables["item_id.rows"].shape == (row_map.lookups[0].num_rows, 4)
    assert manifest.certificate.max_abs_logit_difference < 1e-5


def test_a_registered_name_is_a_setting_like_any_other(tmp_path: Path) -> None:
    assert override(RunConfig(recipe="r"), ["rows.map=pairs"]).rows.map == "pairs"
    with pytest.raises(ConfigError, match=r"rows.map is 'piars': did you mean 'pairs'\?"):
        override(RunConfig(recipe="r"), ["rows.map=piars"])
    with pytest.raises(ConfigError, match=r"rows.maps.user is 'piars': did you mean 'pairs'\?"):
        override(RunConfig(recipe="r"), ["rows.maps.user=piars"])
    config = replace(recipe(), rows=RowConfig(map="piars"))  # written in a recipe, so nothing has read it
    with pytest.raises(ConfigError, match=r"rows.map is 'piars': did you mean 'pairs'\?"):
        build_row_maps(config, odd_dataset(NAMESAKES, tmp_path))
