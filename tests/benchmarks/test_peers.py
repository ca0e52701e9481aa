"""The comparisons with FuxiCTR and RecBole: what the peers are given, and what happens without them."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.paths import ROOT

from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmarks' folder on the path; ``peers`` and what it reads can be imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("peers.fuxictr_data")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    raw = make_synthetic_log(users=40, events_per_user=30, items=50)
    return prepare_movielens(raw, tmp_path_factory.mktemp("prepared"))


@pytest.mark.parametrize("package", ["fuxictr", "recbole"])
def test_without_its_python_a_peer_is_skipped_with_a_message(
    package: str, module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = getattr(importlib.import_module(f"peers.beside_{package}"), f"beside_{package}")
    for python, reason in (
        (None, f"name a Python that has it with --{package}-python"),
        (tmp_path / "python", f"{tmp_path / 'python'} does not exist"),
        (Path(sys.executable), f"{sys.executable} cannot import it"),
    ):
        options = argparse.Namespace(size="tiny", data=None, **{f"{package}_python": python})
        assert list(beside(options, tmp_path)) == []
        assert capsys.readouterr().err == f"{package}: skipped; {reason}\n"


def test_without_their_pythons_two_tower_is_trained_beside_nobody(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    towers = importlib.import_module("peers.beside_towers")
    options = argparse.Namespace(size="tiny", data=None, recbole_python=None, rechub_python=Path(sys.executable))
    assert list(towers.beside_towers(options, tmp_path)) == []
    said = "recbole: skipped; name a Python that has it with --recbole-python\nrechub: skipped; {} cannot import it\n"
    assert capsys.readouterr().err == said.format(sys.executable)


def test_the_peers_of_two_tower_get_each_target_with_the_items_before_it(module: ModuleType, tmp_path: Path) -> None:
    towers = importlib.import_module("peers.beside_towers")
    user_E, item_E = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([4, 2, 7, 5, 3, 6, 1])
    towers.write_for_rechub(user_E, item_E, tmp_path / "rechub", batch_size=8)
    found = np.load(tmp_path / "rechub" / "samples.npz")
    assert found["item"].tolist() == [3] and found["history"].tolist() == [[0] * 49 + [5]], "the last two are held out"
    towers.write_for_recbole(user_E, item_E, tmp_path / "recbole", batch_size=8)
    rows = (tmp_path / "recbole" / "bench" / "bench.inter").read_text().splitlines()[1:]
    assert rows == [f"{u}\t{i}\t{place}" for place, (u, i) in enumerate(zip(user_E, item_E, strict=True))]


def test_fuxictr_gets_the_histories_and_features_that_ours_reads(
    module: ModuleType, dataset: Dataset, tmp_path: Path
) -> None:
    reduced = module.same_for_both(dataset, recent=5)
    labels = module.write_for_fuxictr(reduced, tmp_path / "made", spec={"recent": 5})
    rows = reduced.split("test")
    assert np.array_equal(labels, reduced.samples.label[rows])
    test = pq.read_table(tmp_path / "made" / "test.parquet").to_pydict()
    sequences = pq.read_table(tmp_path / "made" / "users.parquet")["full_item_seq"].to_pylist()
    items = pq.read_table(tmp_path / "made" / "items.parquet").to_pydict()
    assert [items[name][0] for name in ("item_index", "movie_id", "main_genre")] == [0, 0, 0]
    batch = make_batch(reduced, rows)
    for row in range(len(rows)):
        ours = batch.history["history.movie_id"][batch.history_offsets[row] : batch.history_offsets[row + 1]]
        theirs = sequences[test["user_index"][row]][: test["seq_len"][row]][-5:]
        assert reduced.table.item_keys[np.array(theirs, dtype=np.int64) - 1].tolist() == ours.tolist()
    movie = {int(key): index + 1 for index, key in enumerate(reduced.table.item_keys)}
    assert test["item_index"] == [movie[int(key)] for key in batch.item["movie_id"]]


def test_ours_reads_nothing_that_fuxictr_does_not(module: ModuleType, dataset: Dataset, tmp_path: Path) -> None:
    reduced = module.same_for_both(dataset, recent=5)
    module.write_for_fuxictr(reduced, tmp_path / "made", spec={})
    declared = dict(json.loads((tmp_path / "made" / "spec.json").read_text())["features"])
    theirs = {name for name, about in declared.items() if about["type"] == "categorical"}
    batch = make_batch(reduced, reduced.split("test"))
    assert {*batch.user, *batch.item} == {*theirs - {"user_index"}, "user_id"}
    assert set(batch.history) == {"history.movie_id", "history.main_genre"}


def test_a_model_without_history_gets_flat_rows(module: ModuleType, dataset: Dataset, tmp_path: Path) -> None:
    reduced = module.same_for_both(dataset, recent=0)
    module.write_for_fuxictr(reduced, tmp_path / "made", spec={})
    test = np.load(tmp_path / "made" / "test.npz")
    assert sorted(test) == sorted(
        ["user_index", "gender", "age", "occupation", "zip", "label", "movie_id", "main_genre"]
    )
    assert make_batch(reduced, reduced.split("test")).history == {}


def test_recbole_gets_the_three_parts(module: ModuleType, tmp_path: Path) -> None:
    recbole = importlib.import_module("peers.beside_recbole")
    parts = {
        name: make_pairs(np.array([0, 1]), np.array([n, n])) for n, name in enumerate(("train", "validation", "test"))
    }
    data = Interactions(num_users=2, num_items=3, source="made", **parts)
    recbole.write_for_recbole(data, tmp_path, model="lightgcn")
    texts = [(tmp_path / "bench" / f"bench.{name}.inter").read_text() for name in ("train", "valid", "test")]
    assert texts == [f"user_id:token\titem_id:token\n0\t{n}\n1\t{n}\n" for n in range(3)]


def test_a_peer_that_ends_is_an_error(module: ModuleType, tmp_path: Path) -> None:
    process = importlib.import_module("peers.process")
    with pytest.raises(RuntimeError, match=r"fuxictr_peer\.py has ended; its error is above"):
        with process.peer(Path(sys.executable), "fuxictr_peer.py", tmp_path):
            pass


def test_a_peer_leaves_nothing_where_the_benchmark_was_started(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    started.mkdir()
    monkeypatch.chdir(started)
    Path("argument").touch()
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "pathlib.Path('log').touch()\n"
        "print(json.dumps({'found': pathlib.Path(sys.argv[1]).exists(), 'cwd': str(pathlib.Path.cwd())}), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = importlib.import_module("peers.process")
    with process.peer(Path(sys.executable), str(script), Path("argument")) as (_, about):
        assert about["found"] and Path(about["cwd"]).is_dir()
    assert not Path(about["cwd"]).exists() and [file.name for file in started.iterdir()] == ["argument"]


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("fbgemm::split_embedding_nobag_backward_codegen_rowwise_adagrad_cpu", "tables"),
        ("aten::index_select", "gathers and sums of rows"),
        ("aten::_fused_adamw_", "optimiser"),
        ("aten::leaky_relu_backward", "other operators"),
    ],
)
def test_a_profile_tells_operators_apart(module: ModuleType, operator: str, kind: str) -> None:
    assert importlib.import_module("peers.step_profile").kind_of(operator) == kind
