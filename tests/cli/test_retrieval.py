"""`recsys train` and `recsys evaluate` of models that rank all items, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.planted import ITEMS, planted
from typer.testing import CliRunner

from recsys.bundle import open_bundle
from recsys.cli import app
from recsys.data.interactions.pairs import Pairs
from recsys.errors import ConfigError, DataFileError
from recsys.features.hashing import string_keys
from recsys.operators import library
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.training.run.record import read_record

SMALL = [
    *("model.dim=8", "train.batch_size=400", "train.list_length=5", "train.checkpoint_epochs=2"),
    *("train.validation_users=0", "model.layers=2", "data.dataset=./data"),
]


def write_pairs(path: Path, pairs: Pairs) -> None:
    lines = []
    for user in np.unique(pairs.user_E):
        items = " ".join(map(str, pairs.item_E[pairs.user_E == user]))
        lines.append(f"{user} {items}\n")
    path.write_text("".join(lines))


@pytest.fixture
def at_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with planted communities in ``data``."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    parts = planted()
    write_pairs(Path("data/train.txt"), parts.train)
    write_pairs(Path("data/valid.txt"), parts.validation)
    write_pairs(Path("data/test.txt"), parts.test)
    return tmp_path


def recsys(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_recipe_is_trained_shown_and_evaluated(at_data: Path) -> None:
    trained = recsys("train", "ngcf_gowalla", *SMALL, "train.epochs=3")
    assert trained["run_dir"] == "runs/ngcf_gowalla" and trained["epochs"] == 3
    assert recsys("evaluate", "runs/ngcf_gowalla")["test"] == trained["test"]
    assert recsys("evaluate", "runs/ngcf_gowalla", "--split", "validation")["validation"] == trained["validation"]
    assert "lightgcn_gowalla" in recsys("recipes")
    shown = CliRunner().invoke(app, ["train", "lightgcn_lcfn", "train.epochs=7", "--show"])
    assert json.loads(shown.stdout)["train"]["epochs"] == 7
    table = CliRunner().invoke(app, ["evaluate", "runs/ngcf_gowalla"])
    assert "recall@5" in table.stdout and "coverage" in table.stdout


def test_a_run_without_a_validation_part_has_nothing_to_measure_there(at_data: Path) -> None:
    Path("data/valid.txt").unlink()
    recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1")
    assert recsys("evaluate", "runs/lightgcn_gowalla", "--split", "validation") == {}
    told = CliRunner().invoke(app, ["evaluate", "runs/lightgcn_gowalla", "--split", "validation"])
    assert told.exit_code == 0 and "the validation split is empty" in told.output


@pytest.mark.parametrize("option", ["--plan", "--tensorboard"])
def test_options_of_ranking_models_are_refused(option: str) -> None:
    done = CliRunner().invoke(app, ["train", "lightgcn_gowalla", option])
    assert isinstance(done.exception, ConfigError)
    name = option.partition("=")[0]
    assert str(done.exception) == f"{name} is for ranking models; lightgcn_gowalla ranks all items"


def test_compress_weighs_memory_in_training_against_recall(at_data: Path) -> None:
    shared = ["train.epochs=2", *(each for each in SMALL if "layers" not in each), "--maps", "hash,graph"]
    command = ["compress", "mf", *shared, "--budgets", "0.25", "--seeds", "1"]
    found = recsys(*command)
    rows = found["rows"]
    assert isinstance(rows, list) and [row["map"] for row in rows] == ["vocabulary", "hash", "graph"]
    assert rows[1]["table_bytes"]["none"] == (1 + 30 + 1 + 25) * 8 * 4  # of 120 users and 100 items
    shown = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "validation recall@5" in shown and "within 0.001 of the full vocabulary's validation recall@5" in shown
    assert "\nNext: recsys export runs/mf-compress/runs/" in shown and Path("runs/mf-compress/compress.png").exists()
    done = CliRunner().invoke(app, ["compress", "linear"])
    assert isinstance(done.exception, ConfigError) and "linear is a closed form without tables" in str(done.exception)


def test_a_run_is_exported_as_a_bundle_that_retrieves(at_data: Path) -> None:
    trained = recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=2")
    export = ("export", "runs/lightgcn_gowalla", "--out", "bundle", "--name", "finder")
    told = recsys(*export)
    manifest = open_bundle(Path("bundle")).manifest
    assert (told["model"], told["version"]) == ("finder", manifest.version) == (manifest.model, manifest.version)
    assert told["metrics"] == trained["test"] and told["parity"]["requests"] > 0
    assert set(told["size_bytes"]) == set(manifest.tables) and told["index_fingerprint"] == manifest.index_fingerprint
    session = open_retrieval(open_bundle(Path("bundle")))
    assert len(session.retrieve(3, np.arange(2), 5).items) == 5
    shown = CliRunner().invoke(app, [*export, "--overwrite"])
    assert shown.exit_code == 0 and "item_id.popularity" in shown.stdout and "largest score difference" in shown.stdout
    again = open_bundle(Path("bundle")).manifest
    assert again.version == manifest.version
    assert again.created_at == read_record(Path("runs/lightgcn_gowalla")).started_at


def test_codes_of_an_index_are_chosen_by_name(at_data: Path) -> None:
    recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1")
    export = ("export", "runs/lightgcn_gowalla", "--out", "bundle", "--overwrite", "--coarse")
    lists = []
    for coarse in ("int8", "none"):
        recsys(*export, coarse)
        bundle = open_bundle(Path("bundle"))
        index = bundle.manifest.index
        assert index is not None and index.coarse == coarse
        assert ("item_id.codes" in bundle.manifest.tables) == (coarse == "int8")
        lists.append(open_retrieval(bundle).retrieve(3, np.arange(2), 5).items.tolist())
    assert lists[0] == lists[1]
    refused = CliRunner().invoke(app, [*export, "int4"])
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception).startswith("--coarse is 'int4': did you mean 'int8'?")
    for coarse, recall, message in (
        ("1bit", "0", "--coarse-recall is 0; allowed: above 0, up to 1"),
        ("2bit", "nan", "--coarse-recall is nan; allowed: above 0, up to 1"),
        ("int8", "0.9", "--coarse-recall has no use with --coarse int8, whose lists are exact; leave it out"),
    ):
        refused = CliRunner().invoke(app, [*export, coarse, "--coarse-recall", recall])
        assert isinstance(refused.exception, ConfigError) and str(refused.exception) == message


@pytest.mark.skipif(library() is None, reason="the operators were not compiled")
def test_codes_of_bits_are_measured_by_the_export_and_not_said_to_be_proven(at_data: Path) -> None:
    recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1")
    export = ("export", "runs/lightgcn_gowalla", "--out", "bundle", "--overwrite", "--coarse", "1bit")
    told = recsys(*export, "--coarse-recall", "0.9")["index"]
    bundle = open_bundle(Path("bundle"))
    index = bundle.manifest.index
    assert index is not None and not index.is_proven and index.coarse == told["coarse"] == "1bit"
    assert index.reranked == told["reranked"] and index.least_recall == 0.9 <= min(index.recalls.values())
    assert bundle.manifest.tables["item_id.codes"].dtype == "uint8"
    assert len(open_retrieval(bundle).retrieve(3, np.arange(2), 5).items) == 5
    assert "not proven" in CliRunner().invoke(app, [*export]).stdout


def test_tables_of_shared_users_are_options_of_models_that_rank_all_items(at_data: Path) -> None:
    recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1")
    export = ("export", "runs/lightgcn_gowalla", "--out", "bundle", "--overwrite")
    told = recsys(*export, "--neighbours", "3", "--audience")
    tables = open_bundle(Path("bundle")).manifest.tables
    items = tables["neighbours.keys"].shape[0]
    assert told["shared_users"]["neighbours"].startswith(f"by shared users: up to 3 items for each of {items:,}")
    assert told["shared_users"]["audience"].startswith(
        f"users of items: {tables['audience.users'].shape[0]:,} pairs of "
    )
    shown = CliRunner().invoke(app, [*export, "--audience"])
    assert "users of items: " in shown.stdout and "by shared users" not in shown.stdout
    refused = CliRunner().invoke(app, [*export, "--neighbours", "1001"])
    assert str(refused.exception) == "neighbours is 1,001; allowed: 0 to 1,000"


def test_items_that_are_kept_are_named_by_an_option_of_models_that_rank_all_items(at_data: Path) -> None:
    recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1")
    recsys("export", "runs/lightgcn_gowalla", "--out", "runs/lightgcn_gowalla/bundle")
    keep = ("--freeze-items", "runs/lightgcn_gowalla", "--run-dir", "runs/users")
    told = recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1", *keep)
    assert told["notes"][0].startswith("items stay those of bundle, index ")
    recsys("export", "runs/users", "--out", "runs/users/bundle")
    indices = {
        open_bundle(Path(run) / "bundle").manifest.index_fingerprint for run in ("runs/lightgcn_gowalla", "runs/users")
    }
    assert len(indices) == 1
    refused = CliRunner().invoke(app, ["train", "din", *keep])
    assert str(refused.exception) == "--freeze-items is for models that rank all items; din ranks given ones"


def test_items_that_a_list_names_by_texts_are_exported_with_their_names(at_data: Path) -> None:
    names = [f"Ünïque-{index}" for index in range(ITEMS)]
    lines = [f"{name} {index}\n" for index, name in enumerate(names)]
    Path("data/item_list.txt").write_text("".join(["id index\n", *lines]))
    recsys("train", "lightgcn_gowalla", *SMALL, "train.epochs=1", "rows.map=double_hash", "rows.budget=0.5")
    recsys("export", "runs/lightgcn_gowalla", "--out", "bundle")
    session = open_retrieval(open_bundle(Path("bundle")))
    assert session.names is not None
    found = session.retrieve(3, string_keys(names[5:]), ITEMS)
    assert sorted(session.names.of(found.items)) == sorted(names[:5])


def test_segments_of_what_has_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of_a_retrieval_model(tmp_path, monkeypatch)
    Path("ranker").mkdir()
    Path("ranker/config.json").write_text(json.dumps({"model": {"kind": "din"}}))
    for run, options, said in (
        ("run", ["--segment-half-life-days", "3"], "--segment-half-life-days has no use without --segment"),
        ("ranker", ["--segment", "country"], "--segment is for models that rank all items; ranker is of a ranking"),
    ):
        done = CliRunner().invoke(app, ["export", run, "--out", "bundle", *options])
        assert isinstance(done.exception, ConfigError) and str(done.exception).startswith(said)


def test_rows_of_a_retrieval_bundle_are_not_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of_a_retrieval_model(tmp_path, monkeypatch)
    done = CliRunner().invoke(app, ["export", "run", "--out", "bundle", "--quantize", "int8"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == "--quantize is for ranking models; run ranks all items"


def run_of_a_retrieval_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("run").mkdir()
    Path("run/config.json").write_text('{"task": "retrieval"}')


def test_commands_of_ranking_models_say_what_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of_a_retrieval_model(tmp_path, monkeypatch)
    done = CliRunner().invoke(app, ["explain", "run"])
    assert isinstance(done.exception, DataFileError)
    assert str(done.exception).startswith("run holds a run of a model that ranks all items; expected one of a ranking")


def test_a_killed_process_goes_on_to_the_same_last_digit(at_data: Path) -> None:
    command = [*("train", "lightgcn_gowalla"), *SMALL, "train.epochs=80", "train.validate_every=80"]
    whole = recsys(*command, "--run-dir", "whole")
    run = [sys.executable, "-m", "recsys.cli", *command, "--run-dir", "part"]
    process = subprocess.Popen(run, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not Path("part/checkpoint.pt").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not Path("part/metrics.json").exists()
    resumed = recsys(*command, "--run-dir", "part", "--resume")
    assert resumed["test"] == whole["test"]
