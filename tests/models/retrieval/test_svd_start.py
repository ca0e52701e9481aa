"""First vectors from singular vectors: what they are, and what a training has of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted import ITEMS, USERS, planted

from recsys.errors import ConfigError
from recsys.models.retrieval.lightgcn import LightGcnConfig
from recsys.models.retrieval.svd_start import svd_vectors
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import evaluate_retrieval_run
from recsys.training.retrieval.loop import RetrievalProgress, train_retrieval_run
from recsys.training.settings import override


def start(*, dim: int = 8, std: float = 0.1, weight_E: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    train = planted().train
    model = LightGcnConfig(dim=dim, init_std=std, start="svd")
    vectors = svd_vectors(model, train.user_E, train.item_E, USERS, ITEMS, weight_E)
    return vectors[0].numpy(), vectors[1].numpy()


def test_columns_are_the_singular_vectors_of_the_normalised_pairs_times_roots_of_degrees() -> None:
    users_ND, items_MD = start()
    train, taken = planted().train, np.zeros((USERS, ITEMS))
    taken[train.user_E, train.item_E] = 1
    degrees = taken.sum(axis=1, keepdims=True), taken.sum(axis=0, keepdims=True)
    normalised = taken / np.sqrt(np.maximum(degrees[0], 1) * np.maximum(degrees[1], 1))
    left, _, right = np.linalg.svd(normalised)
    for vectors, own, degree in ((users_ND, left, degrees[0][:, 0]), (items_MD, right.T, degrees[1][0])):
        for column in range(5):
            expected = own[:, column] * np.sqrt(degree)
            found = vectors[:, column]
            cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
            assert abs(cosine) > 0.999
        assert np.sqrt(np.mean(vectors**2)) == pytest.approx(0.1)
        assert np.sqrt(np.mean(start(std=0.0)[0] ** 2)) == pytest.approx(np.sqrt(2 / (USERS + 8)))


def test_weights_of_pairs_stand_in_place_of_ones_and_more_columns_than_ids_are_refused() -> None:
    random = np.random.default_rng(0).uniform(0.1, 5.0, len(planted().train)).astype(np.float32)
    assert not np.allclose(np.abs(start(weight_E=random)[1]), np.abs(start()[1]), atol=1e-3)
    with pytest.raises(ConfigError, match="model.dim 104; allowed for 120 users and 100 items: at most 100"):
        start(dim=104)


@pytest.mark.parametrize(
    "change",
    [
        ["model.layers=2"],
        ["model.layers=2", "train.fan_outs=[4, 4]"],
        ["model.kind=mf", "model.init_std=0.1"],
    ],
)
def test_after_one_epoch_a_run_is_where_a_random_start_leads_after_many(change: list[str], tmp_path: Path) -> None:
    data = planted()
    base = override(
        RetrievalRunConfig(recipe="small"),
        [
            *("train.batch_size=400", "train.epochs=8", "train.learning_rate=0.01", "train.list_length=5"),
            *("train.validate_every=1", "train.validation_users=0", *change, "model.dim=8"),
        ],
    )
    recalls = {}
    for begun in ("random", "svd"):
        seen: list[RetrievalProgress] = []
        config = override(base, [f"model.start={begun}"])
        result = train_retrieval_run(config, data, tmp_path / begun, report=seen.append)
        recalls[begun] = [each.validation.recall for each in seen if each.validation is not None]
    assert recalls["svd"][0] > max(0.9 * recalls["random"][-1], 1.3 * recalls["random"][0])
    # Loaded without a second decomposition, and the same from the same seed.
    assert evaluate_retrieval_run(tmp_path / "svd", data, "test") == result.test
    again = train_retrieval_run(override(config, ["train.epochs=1"]), data, tmp_path / "again")
    same = train_retrieval_run(override(config, ["train.epochs=1"]), data, tmp_path / "same")
    assert torch.equal(again.users_ND, same.users_ND)
