"""Every way to combine rows, and every model, goes from training through the export's own parity check."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import NAMESAKES, ONE_OFF, odd_config, odd_dataset

from recsys.bundle import open_bundle
from recsys.data.samples.dataset import make_batch
from recsys.data.samples.ids import map_ids
from recsys.embeddings.sharding.shard import table_weights
from recsys.errors import ConfigError
from recsys.evaluation.evaluate import predict
from recsys.export.certificate import torch_logits
from recsys.export.onnx import export_bundle
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.training.config import RowConfig, RunConfig
from recsys.training.loop import train
from recsys.training.trained import load_run
from recsys.training.warm_start.incremental import grown_row_maps
from recsys.training.warm_start.source import open_source

DIN = odd_config()
DCN = replace(DIN, model=DcnConfig(cross_layers=2, head=(7,), dropout=0.2))
AUTOINT = replace(
    DIN,
    model=AutoIntConfig(
        layers=2, attention_width=6, head=(7,), batch_norm=True, wide=True, history="mean", field_norm=True
    ),
    tables=replace(DIN.tables, dims={}),
)
SHARED = RowConfig(map="unified", chunks=2, chunks_of={"item_id": 3}, widths=(4, 8))

CASES: dict[str, tuple[FeatureSet, RunConfig, set[str]]] = {
    "sum": (NAMESAKES, replace(DIN, rows=RowConfig(map="double_hash", budget=1.0)), {"double_hash"}),
    "product": (
        NAMESAKES,
        replace(DIN, rows=RowConfig(map="quotient_remainder", rows=dict.fromkeys(NAMESAKES.tables(), 12))),
        {"quotient_remainder"},
    ),
    "concat": (NAMESAKES, replace(DIN, rows=SHARED, tables=replace(DIN.tables, dims={})), {"unified"}),
    "clusters": (
        NAMESAKES,
        replace(DIN, rows=RowConfig(maps={"user": "double_graph", "item_id": "graph"}, budget=1.0, unknown_rows=1)),
        {"double_graph", "graph", "vocabulary"},
    ),
    "DCN": (NAMESAKES, DCN, {"vocabulary"}),
    "no history": (ONE_OFF, DCN, {"vocabulary"}),
    "AutoInt": (NAMESAKES, AUTOINT, {"vocabulary"}),
    "AutoInt, no history": (
        ONE_OFF,
        replace(AUTOINT, model=AutoIntConfig(layers=2, attention_width=4)),
        {"vocabulary"},
    ),
}


LONG = {"DCN", "no history", "AutoInt, no history", "concat", "clusters"}
"""Untrained, these models are exported in ``test_split.py`` too; row maps are, in ``test_row_maps.py``."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.prove] if name in LONG else []) for name in CASES]
)
def test_a_trained_run_is_exported_and_its_graphs_answer_alike(name: str, tmp_path: Path) -> None:
    features, config, kinds = CASES[name]
    dataset = odd_dataset(features, tmp_path)
    trained = train(config, dataset, tmp_path / "run").trained
    assert {row_map.kind for row_map in trained.row_maps.values()} == kinds

    manifest = export_bundle(trained, dataset, tmp_path / "bundle", name="tiny")
    assert manifest.certificate.candidates > manifest.certificate.requests > 0
    assert manifest.certificate.max_abs_logit_difference <= 1e-5
    used = {lookup.table for row_map in trained.row_maps.values() for lookup in row_map.lookups}
    assert set(table_weights(trained.model)) == used
    assert open_ranking_session(open_bundle(tmp_path / "bundle")).features == features

    # The parity check compares with ``torch_logits``: that, too, is what evaluation computes.
    mapped = map_ids(dataset, {table: row_map.lookup for table, row_map in trained.row_maps.items()})
    chosen = dataset.split("test")[:10]
    expected = predict(trained.model, mapped, chosen, convert=trained.convert, device=trained.device)
    assert len(np.unique(expected)) > 1
    got = [torch_logits(trained, make_batch(dataset, chosen[i : i + 1]))[0] for i in range(len(chosen))]
    np.testing.assert_allclose(got, expected, atol=1e-5)

    if kinds != {"vocabulary"}:  # the graphs hold the hashes: training cannot go on with such maps
        with pytest.raises(
            ConfigError, match=r"train.warm_start (has no id map of|is a bundle, of which it cannot be)"
        ):
            grown_row_maps(config, open_source(tmp_path / "bundle").row_maps, dataset)

    reloaded = load_run(tmp_path / "run")
    again = predict(reloaded.model, mapped, chosen, convert=reloaded.convert, device=reloaded.device)
    np.testing.assert_array_equal(again, expected)
