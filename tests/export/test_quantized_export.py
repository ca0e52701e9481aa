"""A bundle of quantised rows: smaller tables, graphs that answer as torch does on the same rows, and what it costs."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_bundle import write_tiny_bundle
from support.tiny_run import NAMESAKES, finished, folder_of_this_process, odd_config, odd_dataset
from typer.testing import CliRunner

from recsys.arrays import Int64Array
from recsys.bundle import MANIFEST, Manifest, TableInfo, open_bundle, read_manifest
from recsys.cli import app
from recsys.cli.export import QUANTIZED_KINDS, quantize_options
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts
from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.embeddings.quantize import KINDS, QuantizedTable, quantize_rows, row_bytes, table_kinds
from recsys.embeddings.sharding.shard import table_weights
from recsys.errors import BundleError, ConfigError, InvalidInputError
from recsys.export import certificate as certificate_module
from recsys.export import int8
from recsys.export.certificate import certificate_logits, certify
from recsys.export.onnx import export_bundle
from recsys.export.quantized import rows_as_stored, stored_tables
from recsys.features.hot_ids import HOT_IDS, read_hot_ids
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.training.loop import train
from recsys.training.run.record import read_record
from recsys.training.trained import TrainedModel, evaluate_run

MIXED = {"*": "int8", "user": "fp16", "type": "int4", "values": "none"}


@dataclass(frozen=True)
class Exported:
    """A trained model, its data, and its bundle."""

    trained: TrainedModel
    dataset: Dataset
    path: Path
    manifest: Manifest
    asked: str | dict[str, str]


@cache
def exported_case(case: str) -> Exported:
    """Each is exported once per process."""
    folder = folder_of_this_process()
    asked: str | dict[str, str] = case
    if case == "mixed":
        dataset, asked = odd_dataset(NAMESAKES, folder), MIXED
        trained = train(odd_config(), dataset, folder / "run").trained
    else:
        trained, dataset = finished().result.trained, finished().dataset
    manifest = export_bundle(trained, dataset, folder / "bundle", name="tiny", quantize=asked)
    return Exported(trained, dataset, folder / "bundle", manifest, asked)


@pytest.fixture(scope="module", params=["int4", "mixed"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return exported_case(request.param)


def stored_rows(exported: Exported, table: str) -> QuantizedTable:
    """The rows in the bundle, read as the specification says."""
    info = exported.manifest.tables[f"{table}.rows"]
    stored = np.fromfile(exported.path / info.file, dtype=np.uint8)[info.offset_bytes :][: info.size_bytes]
    stored = stored.view(info.dtype).reshape(info.shape)
    kind = table_kinds(exported.asked, table_weights(exported.trained.model))[table]
    return QuantizedTable(kind=kind, rows=stored, width=info.width or info.shape[1])


def test_every_table_is_stored_as_asked_and_says_so(exported: Exported) -> None:
    weights = table_weights(exported.trained.model)
    kinds = table_kinds(exported.asked, weights)
    for table, weight in weights.items():
        info = exported.manifest.tables[f"{table}.rows"]
        assert info.quantized == kinds[table]
        assert info.width == (None if kinds[table] == "none" else weight.shape[1])
        assert info.size_bytes == len(weight) * row_bytes(kinds[table], weight.shape[1])
    for file in {info.file for info in exported.manifest.tables.values()}:
        inside = [info for info in exported.manifest.tables.values() if info.file == file]
        assert exported.manifest.files[file][0] == sum(info.size_bytes for info in inside)
        assert len({(info.quantized, info.dtype, info.width, info.shape[1]) for info in inside}) == 1, "alike"


def test_the_table_files_hold_the_quantised_rows(exported: Exported) -> None:
    for table, weight in table_weights(exported.trained.model).items():
        found = stored_rows(exported, table)
        np.testing.assert_array_equal(found.rows, quantize_rows(weight.numpy(), found.kind).rows)


def test_a_server_opens_the_bundle_and_the_manifest_survives_reading(exported: Exported) -> None:
    bundle = open_bundle(exported.path)
    assert bundle.manifest == exported.manifest
    assert bundle.manifest.version == json.loads((exported.path / MANIFEST).read_text())["manifest_sha256"][:16]
    assert open_ranking_session(bundle).features == exported.trained.features


def test_the_certificate_is_as_strict_as_that_of_float32_rows(exported: Exported) -> None:
    certificate = exported.manifest.certificate
    assert certificate.max_abs_logit_difference <= certificate.tolerance == certificate_module.TOLERANCE
    assert certificate.candidates > certificate.requests > 0


def test_graphs_of_quantised_rows_are_refused_against_float32_rows() -> None:
    """So the certificate above is about the quantised rows: with the trained ones in their place it fails."""
    exported = exported_case("int4")
    with pytest.raises(BundleError, match="certificate: ONNX Runtime's logit differs"):
        certify(exported.path, exported.trained, exported.dataset)


def test_the_manifest_states_what_quantisation_changes(exported: Exported) -> None:
    trained, dataset, stated = exported.trained, exported.dataset, exported.manifest.quantization
    assert stated is not None
    own_logits, own = certificate_logits(trained, dataset), evaluate_run(trained, dataset, "test")
    assert own is not None and stated.float32_metrics["auc"] == pytest.approx(own.auc)
    tables = {table: stored_rows(exported, table) for table in table_weights(trained.model)}
    with rows_as_stored(trained, tables):
        difference = np.abs(certificate_logits(trained, dataset) - own_logits).max()
        quantized = evaluate_run(trained, dataset, "test")
    assert quantized is not None
    assert stated.max_abs_logit_difference == pytest.approx(float(difference)) and difference > 0
    assert exported.manifest.metrics["auc"] == pytest.approx(quantized.auc)
    assert exported.manifest.metrics["log_loss"] == pytest.approx(quantized.log_loss)
    evaluation = exported.manifest.evaluation
    assert evaluation is not None and {"user new", "item seen in training"} & set(evaluation.segments)


def test_fewer_bits_change_the_answers_more() -> None:
    trained, dataset = finished().result.trained, finished().dataset
    own, differences = certificate_logits(trained, dataset), []
    for kind in ("none", "fp16", "int8", "int4"):
        with rows_as_stored(trained, stored_tables(trained, kind)):
            differences.append(float(np.abs(certificate_logits(trained, dataset) - own).max()))
    assert differences == sorted(differences) and differences[0] == 0.0 < 10 * differences[1] < differences[3]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_has_its_own_rows_back_afterwards(fails: bool) -> None:
    trained = finished().result.trained
    before = {name: weight.clone() for name, weight in table_weights(trained.model).items()}
    with pytest.raises(KeyError) if fails else rows_as_stored(trained, stored_tables(trained, "int8")):
        with rows_as_stored(trained, stored_tables(trained, "int4")):
            assert not torch.equal(table_weights(trained.model)["movie_id"], before["movie_id"])
            if fails:
                raise KeyError
    for name, weight in table_weights(trained.model).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        ("int9", "quantize 'int9': did you mean 'int8'"),
        ({"movie_di": "int8"}, "quantize movie_di=int8: no table 'movie_di': did you mean 'movie_id'"),
    ],
)
def test_an_unknown_kind_or_table_is_refused(quantize: str | dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        export_bundle(finished().result.trained, finished().dataset, tmp_path / "b", name="b", quantize=quantize)
    assert not list(tmp_path.iterdir())


def test_rows_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    trained = finished().result.trained
    weight = table_weights(trained.model)["movie_id"]
    before = weight.clone()
    try:
        weight[3, 1] = float("nan")
        with pytest.raises(InvalidInputError, match="table 'movie_id': row 3 holds nan"):
            export_bundle(trained, finished().dataset, tmp_path / "b", name="b", quantize="int8")
    finally:
        weight.copy_(before)
    assert not list(tmp_path.iterdir())


def test_a_manifest_of_float32_rows_is_as_it_always_was(tmp_path: Path) -> None:
    """Its digest is the bundle's version: a reader of today must not answer with another than one of yesterday."""
    manifest = write_tiny_bundle(tmp_path / "bundle")
    text = (tmp_path / "bundle" / MANIFEST).read_text()
    assert "quantiz" not in text and "width" not in text
    assert manifest.quantization is None
    assert read_manifest(tmp_path / "bundle").version == json.loads(text)["manifest_sha256"][:16]
    assert TableInfo(file="f", dtype="float32", shape=(1, 2)).quantized == "none"


def test_hot_ids_are_those_that_training_looked_up_most(exported: Exported) -> None:
    hot, features = read_hot_ids(exported.path / HOT_IDS), exported.trained.features
    counted = id_counts(exported.dataset, exported.dataset.split("train"))
    for found, feature in ((hot.users, features.user_id), (hot.items, features.item_id)):
        ids, counts = counted[feature.table]
        assert set(found.tolist()) == set(ids.tolist())
        assert (np.diff(counts[np.searchsorted(ids, found)]) <= 0).all()
    assert HOT_IDS in exported.manifest.files


def test_no_more_hot_ids_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    import recsys.export.onnx as export

    def hot_items() -> Int64Array:
        return export.hot_ids(finished().dataset).items

    everything = hot_items()
    monkeypatch.setattr(export, "HOT_IDS_KEPT", 5)
    np.testing.assert_array_equal(hot_items(), everything[:5])


def test_the_command_line_knows_the_kinds_of_rows() -> None:
    assert QUANTIZED_KINDS == KINDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["int9"], "--quantize int9: kind 'int9': did you mean 'int8'"),
        (["user_id=half"], "--quantize user_id=half: kind 'half': valid: fp16, int4, int8, none"),
        (["=int8"], "--quantize =int8: no table before '='; expected KIND or TABLE=KIND"),
        (["int8", "int4"], "--quantize int4: every other table has a kind already"),
        (["user_id=int8", "user_id=int4"], "--quantize user_id=int4: user_id has a kind already"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        quantize_options(options)
    assert str(refused.value).startswith(message)


def test_export_prints_sizes_and_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SAMPLES", 100)
    run_dir, runner = tmp_path / "run", CliRunner()
    common = ["--work-dir", str(tmp_path / "work")]
    prepare_movielens(make_synthetic_log(users=150, events_per_user=80, items=60), tmp_path / "data")
    (data,) = (tmp_path / "data").iterdir()
    tiny = [f"data.dataset={data}", "train.epochs=2", "train.batch_size=256", "data.recent=50"]
    trained = runner.invoke(app, ["train", "din_synthetic", *tiny, "--run-dir", str(run_dir), *common])
    assert trained.exit_code == 0, trained.output
    out = [str(run_dir), "--out", str(tmp_path / "b"), "--quantize", "int8", "--quantize", "user_id=fp16", *common]
    as_json = runner.invoke(app, ["export", *out, "--json"])
    assert as_json.exit_code == 0, as_json.output
    facts = json.loads(as_json.stdout)
    assert facts["tables"]["user_id"]["quantized"] == "fp16"
    movies = facts["tables"]["movie_id"]
    assert movies["quantized"] == "int8" and movies["size_bytes"] == movies["rows"] * (16 + 8)
    assert movies["float32_bytes"] == movies["rows"] * 16 * 4
    assert facts["quantization"]["metrics"]["auc"] == pytest.approx(
        facts["quantization"]["float32_metrics"]["auc"], abs=0.01
    )
    assert open_bundle(tmp_path / "b").manifest.created_at == read_record(run_dir).started_at
    shown = runner.invoke(app, ["export", *out, "--overwrite", "--compute", "int8"])
    assert shown.exit_code == 0
    for word in (
        "movie_id",
        "int8",
        "fp16",
        "float32 rows",
        "quantised rows",
        "difference",
        "largest logit difference",
        "int8 products: logits differ by",
        "auc of these samples",
    ):
        assert word in shown.output
