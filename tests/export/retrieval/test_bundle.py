"""A bundle of a model that ranks all items answers as the trained model does."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import ITEMS, USERS, planted
from support.tiny_run import folder_of_this_process

from recsys.bundle import Manifest, open_bundle
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.errors import BundleError, ConfigError, InvalidInputError
from recsys.export.retrieval import bundle as retrieval
from recsys.export.retrieval import graph as retrieve_graph
from recsys.export.retrieval.bundle import LISTS, export_retrieval_bundle
from recsys.export.retrieval.codes import Coarse
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.hashing import string_keys
from recsys.features.names import ITEM_NAMES
from recsys.operators import library
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import fingerprint
from recsys.training.retrieval.loop import RetrievalRunResult, train_retrieval_run
from recsys.training.retrieval.ranking import top_items
from recsys.training.settings import override

FEATURES = FeatureSet(name="shop", user_id=Categorical(name="user_id"), item_id=Categorical(name="item_id"))
KINDS = {
    "mf": ["model.kind=mf", "model.init_std=0.1"],
    "lightgcn": ["model.kind=lightgcn", "model.layers=2"],
    "ngcf": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1"],
    "ngcf as in its code": ["model.kind=ngcf", "model.layers=2", "model.init_std=0.1", "model.variant=code"],
    "sampled lightgcn": ["model.kind=lightgcn", "model.layers=2", "train.fan_outs=[4,3]"],
}
UNTRAINED = 3
"""A user without training pairs."""


@dataclass(frozen=True)
class Exported:
    data: Interactions
    run: Path
    bundle: Path
    result: RetrievalRunResult
    manifest: Manifest


def named(data: Interactions) -> Interactions:
    """The same with keys that are neither indices nor in their order, and a user nothing is known of."""
    random = np.random.default_rng(7)
    kept = data.train.user_E != UNTRAINED
    return dataclasses.replace(
        data,
        train=make_pairs(data.train.user_E[kept], data.train.item_E[kept]),
        ids=PairIds(
            features=FEATURES,
            user_keys_N=random.choice(1 << 40, USERS, replace=False),
            item_keys_M=random.choice(1 << 40, ITEMS, replace=False),
        ),
    )


@functools.cache
def exported(kind: str) -> Exported:
    config = override(
        RetrievalRunConfig(recipe="small"),
        [
            *("model.dim=8", "train.batch_size=400", "train.epochs=6", "train.learning_rate=0.03"),
            *("train.list_length=5", "train.validate_every=6", "train.checkpoint_epochs=6"),
            *KINDS[kind],
            "model.dim=8",
        ],
    )
    folder = folder_of_this_process()
    data = named(planted())
    result = train_retrieval_run(config, data, folder / "run")
    manifest = export_retrieval_bundle(folder / "run", data, folder / "bundle", name="finder")
    return Exported(data, folder / "run", folder / "bundle", result, manifest)


def taken_by(data: Interactions, user: int) -> np.ndarray:
    """Items of the training and validation parts."""
    return np.concatenate([part.item_E[part.user_E == user] for part in (data.train, data.validation)])


@pytest.mark.parametrize("kind", KINDS)
def test_lists_and_recall_are_those_of_the_run(kind: str) -> None:
    made, data = exported(kind), exported(kind).data
    assert data.ids is not None
    session = open_retrieval(open_bundle(made.bundle))
    users = np.setdiff1d(np.unique(data.test.user_E), [UNTRAINED])
    excluded = (data.train, data.validation)
    barred_M = ~np.isin(np.arange(ITEMS), data.train.item_E)  # of which training knows nothing
    expected = top_items(
        made.result.users_ND, made.result.items_MD, users, excluded=excluded, list_length=5, barred_M=barred_M
    )
    recalls = []
    for user, own_list in zip(users.tolist(), expected, strict=True):
        got = session.retrieve(int(data.ids.user_keys_N[user]), data.ids.item_keys_M[taken_by(data, user)], 5)
        scores_M = made.result.items_MD @ made.result.users_ND[user]
        np.testing.assert_allclose(got.scores, scores_M[torch.from_numpy(own_list)].numpy(), atol=1e-5)
        assert got.items.tolist() == data.ids.item_keys_M[own_list].tolist() and got.known
        wanted = data.ids.item_keys_M[data.test.item_E[data.test.user_E == user]]
        recalls.append(np.isin(wanted, got.items).mean())
    lists = made.result.test.users  # one of them is the user without training pairs, whom the run ranked by chance
    chance = made.result.test.recall * lists - sum(recalls)
    assert lists == len(users) + 1 and 0 <= round(chance, 9) <= 1
    assert made.manifest.metrics["recall"] == made.result.test.recall
    evaluation = made.manifest.evaluation
    assert evaluation is not None and sum(part.samples for part in evaluation.segments.values()) == lists
    assert evaluation.segments["history 0"].samples == 1
    index = made.manifest.index
    assert index is not None and (index.coarse, index.users) == ("int8", len(users))
    assert index.recall == (None if library() is None else 1.0)
    certificate = made.manifest.certificate
    assert certificate.requests == min(LISTS, len(users)) and certificate.candidates == 5 * certificate.requests
    assert certificate.max_abs_logit_difference < 1e-5


def test_a_user_without_training_pairs_gets_what_most_users_took() -> None:
    made, data = exported("mf"), exported("mf").data
    assert data.ids is not None
    session = open_retrieval(open_bundle(made.bundle))
    count = np.bincount(data.train.item_E, minlength=ITEMS)
    expected = np.lexsort((data.ids.item_keys_M, -count))[:7]
    for user_key in (int(data.ids.user_keys_N[UNTRAINED]), 1 << 50):
        got = session.retrieve(user_key, np.empty(0, dtype=np.int64), 7)
        assert got.items.tolist() == data.ids.item_keys_M[expected].tolist()
        assert got.scores.tolist() == count[expected].tolist() and not got.known


def test_the_manifest_says_what_was_trained() -> None:
    made = exported("lightgcn")
    manifest = open_bundle(made.bundle).manifest
    assert (manifest.kind, manifest.model, manifest.feature_set) == ("retrieval", "finder", FEATURES)
    assert manifest.training["recipe"] == "small" and manifest.training["config"]["model"]["kind"] == "lightgcn"
    assert manifest.tables["item_id.rows"].shape == (len(np.unique(exported("mf").data.train.item_E)) + 1, 8)
    assert manifest.tables["user_id.rows"].shape == (USERS, 8), "row 0, and all users but one"


TITLES = tuple(f"第{place}巻 «{'x' * 50 * place}»" for place in range(ITEMS))


def with_titles(data: Interactions) -> Interactions:
    """The same data, whose items are named by strings."""
    assert data.ids is not None
    features = dataclasses.replace(FEATURES, item_id=Categorical(name="item_id", id_type="string"))
    ids = dataclasses.replace(data.ids, features=features, item_keys_M=string_keys(TITLES), item_names_M=TITLES)
    return dataclasses.replace(data, ids=ids)


def test_a_bundle_of_items_named_by_strings_gives_their_names(tmp_path: Path) -> None:
    made = exported("mf")
    data = with_titles(made.data)
    run = run_on(data, tmp_path)
    manifest = export_retrieval_bundle(run, data, tmp_path / "bundle", name="finder")
    assert ITEM_NAMES in manifest.files and manifest.feature_set.item_id.id_type == "string"
    session = open_retrieval(open_bundle(tmp_path / "bundle"))
    assert data.ids is not None and session.names is not None
    users = np.setdiff1d(np.unique(data.test.user_E), [UNTRAINED])
    excluded = (data.train, data.validation)
    lists = top_items(made.result.users_ND, made.result.items_MD, users, excluded=excluded, list_length=5)
    for user, own_list in zip(users.tolist(), lists, strict=True):
        got = session.retrieve(int(data.ids.user_keys_N[user]), data.ids.item_keys_M[taken_by(data, user)], 5)
        assert session.names.of(got.items) == [TITLES[item] for item in own_list]


def test_names_that_are_written_wrongly_are_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_titles(exported("mf").data)
    run = run_on(data, tmp_path)
    write = retrieve_graph.write_names
    monkeypatch.setattr(
        retrieve_graph, "write_names", lambda file, keys, names: write(file, keys, [*names[:-1], names[1]])
    )
    with pytest.raises(BundleError, match=r"certificate: item \d+ is named '第.*, in the bundle '第.* was not written"):
        export_retrieval_bundle(run, data, tmp_path / "bundle", name="finder")
    assert not (tmp_path / "bundle").exists()


def run_on(data: Interactions, folder: Path) -> Path:
    """The run that :func:`exported` gives, as of these data: names and keys of items have no part in training."""
    shutil.copytree(exported("mf").run, folder / "run")
    (folder / "run" / "data.json").write_text(json.dumps({"fingerprint": fingerprint(data)}))
    return folder / "run"


def test_other_data_and_existing_folders_are_refused(tmp_path: Path) -> None:
    made = exported("mf")
    assert made.data.ids is not None
    with pytest.raises(ConfigError, match="was trained on other data"):
        export_retrieval_bundle(made.run, planted(seed=1), tmp_path / "bundle", name="finder")
    with pytest.raises(InvalidInputError, match="exists; choose another folder, or replace it with overwrite=True"):
        export_retrieval_bundle(made.run, made.data, made.bundle, name="finder")
    assert not list(tmp_path.iterdir())


def keys_swapped(folder: Path) -> None:
    """Right scores, wrong items."""
    file = folder / "tables" / "item_id.keys.bin"
    keys = np.fromfile(file, dtype=np.int64)
    keys[1:] = np.roll(keys[1:], 1)
    keys.tofile(file)


def one_key(folder: Path) -> None:
    file = folder / "tables" / "item_id.keys.bin"
    keys = np.fromfile(file, dtype=np.int64)
    keys[1:] = keys[1]
    keys.tofile(file)


def best_items_lost(folder: Path) -> None:
    """Right scores of these items, but better ones are missing: every other item scores nothing."""
    file = folder / "tables" / "item_id.rows.bin"
    rows = np.fromfile(file, dtype=np.float32)
    rows.reshape(-1, 8)[::2] = 0.0
    rows.tofile(file)


def scores_scaled(folder: Path) -> None:
    file = folder / "tables" / "item_id.rows.bin"
    (np.fromfile(file, dtype=np.float32) * np.float32(1.01)).tofile(file)


def users_lost(folder: Path) -> None:
    """An id map in which no user is found."""
    file = folder / "tables" / "user_id.ids.bin"
    np.full_like(np.fromfile(file, dtype=np.int64), -2).tofile(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (users_lost, "ONNX Runtime does not know user"),
        (scores_scaled, r"a score of ONNX Runtime's list differs from torch's by .* allowed: 1e-04"),
        (keys_swapped, "a score of ONNX Runtime's list differs from torch's by"),
        (best_items_lost, "a score of ONNX Runtime's list differs from torch's by"),
        (one_key, "ONNX Runtime gives 1 items for user"),
    ],
)
def test_a_graph_that_answers_otherwise_is_no_bundle(
    damage: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("mf")
    write = retrieval.write_retrieve_graph

    def damaged(tables: retrieval.RetrievalTables, folder: Path, *, coarse: Coarse) -> object:
        written = write(tables, folder, coarse=coarse)
        damage(folder)
        return written

    monkeypatch.setattr(retrieval, "write_retrieve_graph", damaged)
    with pytest.raises(BundleError, match=message):
        export_retrieval_bundle(made.run, made.data, tmp_path / "bundle", name="finder")
    assert not list(tmp_path.iterdir())
