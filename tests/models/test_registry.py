"""The registry's promise: a model is one file, one line of the registry, and one recipe.

The two toys below are what such files hold. Each is registered, trained, exported and served as a real one is.

Legend: ``B`` samples, ``E`` events of the batch, ``U``, ``D`` and ``I`` widths of user, candidate and item features,
``S`` one user's events, ``C`` candidates; ``N`` users, ``M`` items.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from support.planted import ITEMS, USERS, planted
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import FEATURES as RETRIEVAL_FEATURES
from support.tiny_run import CONFIG, ONE_OFF, odd_dataset, tiny_dataset
from torch import Tensor, nn

from recsys import recipes
from recsys.client import Client
from recsys.data.interactions.ids import PairIds
from recsys.data.samples.dataset import make_batch
from recsys.errors import ConfigError
from recsys.export.certificate import torch_logits
from recsys.export.onnx import export_bundle
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.ingest.materialize import materialize
from recsys.models.ranking.network import Reads
from recsys.models.ranking.widths import Widths
from recsys.models.registry import (
    RANKING_MODELS,
    RETRIEVAL_MODELS,
    RankingKind,
    RetrievalKind,
    make_layers,
)
from recsys.models.retrieval.hops import Hop, Normalization
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.training.config import RunConfig
from recsys.training.loop import train
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import evaluate_retrieval_run
from recsys.training.retrieval.loop import train_retrieval_run
from recsys.training.settings import from_json, override, to_json
from recsys.training.trained import load_run


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """The toy ranking model's hyper-parameters."""

    reads: ClassVar[Reads] = "events"

    kind: Literal["toy"] = "toy"
    taste: float = 0.5

    def __post_init__(self) -> None:
        if not self.taste >= 0:
            raise ConfigError(f"model.taste is {self.taste}; allowed: 0 or more")


class Toy(nn.Module):
    """A linear function of all features, and the product of the candidate with the mean of the past events."""

    side_dimensions: Mapping[str, Mapping[int, str]] = {"side.bias": {}, "side.mean": {}}

    def __init__(self, widths: Widths, *, config: ToyConfig) -> None:
        super().__init__()
        self.widths, self.taste = widths, config.taste
        self.of_user = nn.Linear(widths.user, 1)
        self.of_item = nn.Linear(widths.key + widths.item, 1, bias=False)

    def forward(self, user_BU: Tensor, query_BD: Tensor, item_BI: Tensor, keys_ED: Tensor, offsets: Tensor) -> Tensor:
        sample_E = torch.repeat_interleave(offsets.diff(), output_size=len(keys_ED))
        sums_BD = torch.zeros_like(query_BD).index_add(0, sample_E, keys_ED)
        mean_BD = sums_BD / offsets.diff().clamp_min(1)[:, None]
        linear_B1: Tensor = self.of_user(user_BU) + self.of_item(torch.cat([query_BD, item_BI], dim=1))
        return linear_B1.squeeze(1) + self.taste * (mean_BD * query_BD).sum(dim=1)

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> tuple[Tensor, ...]:
        return self.of_user(user_1U).squeeze(0), (present_S @ keys_SD) / present_S.sum().clamp_min(1.0)

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        bias, mean_D = side
        linear_C1: Tensor = bias + self.of_item(torch.cat([query_CD, item_CI], dim=1))
        return linear_C1.squeeze(1) + self.taste * (query_CD @ mean_D)


def toy_recipe() -> RunConfig:
    few_steps = dataclasses.replace(CONFIG.train, epochs=1, batch_size=1000)
    return dataclasses.replace(CONFIG, recipe="toy", model=ToyConfig(), train=few_steps)


@dataclass(frozen=True, kw_only=True)
class ScaledConfig:
    """The toy retrieval model's hyper-parameters."""

    layers: ClassVar[int] = 1

    kind: Literal["scaled"] = "scaled"
    dim: int = 8
    init_std: float = 0.1
    own: float = 0.5


class Scaled(nn.Module):
    """The mean of what a node's neighbours send and ``own`` of itself, each column times a weight that is learned."""

    normalization: Normalization = "symmetric"
    of_output = False

    def __init__(self, config: ScaledConfig) -> None:
        super().__init__()
        self.own = config.own
        self.weight_D = nn.Parameter(torch.ones(config.dim))

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: tuple[Hop, ...]) -> tuple[Tensor, Tensor]:
        (hop,) = hops
        to_users, to_items = hop.messages(users_ND, items_MD)
        own_users, own_items = hop.kept(users_ND, items_MD)
        return (to_users + self.own * own_users) * self.weight_D, (to_items + self.own * own_items) * self.weight_D


def scaled_recipe() -> RetrievalRunConfig:
    return override(
        RetrievalRunConfig(recipe="scaled", model=ScaledConfig()),
        [
            *("train.batch_size=400", "train.epochs=12", "train.learning_rate=0.03", "train.list_length=5"),
            *("train.validate_every=12", "train.checkpoint_epochs=4"),
        ],
    )


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of the registry, and one of the recipes, for each toy."""
    monkeypatch.setitem(RANKING_MODELS, "toy", RankingKind(ToyConfig, Toy))
    monkeypatch.setitem(recipes.RECIPES, "toy", toy_recipe)
    monkeypatch.setitem(RETRIEVAL_MODELS, "scaled", RetrievalKind(ScaledConfig, Scaled))
    monkeypatch.setitem(recipes.RETRIEVAL_RECIPES, "scaled", scaled_recipe)


@contextmanager
def served(redis_url: str, **bundles: Path) -> Iterator[Client]:
    """A client of a real server of these bundles."""
    values: dict[str, Any] = {"port": 0, "redis_url": redis_url, "store_timeout_ms": 5_000, **bundles}
    with running_server(Settings(**values)) as server, Client(server.address, timeout_s=10.0) as client:
        yield client


def test_a_registered_ranking_model_is_trained_exported_and_served(tmp_path: Path, redis_url: str) -> None:
    dataset = tiny_dataset()
    config = override(recipes.recipe("toy"), ["model.taste=2"])
    train(config, dataset, tmp_path / "run")
    trained = load_run(tmp_path / "run")
    assert trained.config == config and trained.config.model == ToyConfig(taste=2.0)

    manifest = export_bundle(trained, dataset, tmp_path / "bundle", name="toy")
    assert list(manifest.graphs) == ["user", "rank"] and manifest.state is None
    assert manifest.training["config"]["model"] == {"kind": "toy", "taste": 2.0}
    assert [name for name in manifest.graphs["rank"].inputs if name.startswith("side.")] == ["side.bias", "side.mean"]
    assert manifest.certificate.max_abs_logit_difference < 1e-5

    index = int(dataset.split("test")[0])
    sample = make_batch(dataset, np.array([index]))
    sample.item.update(dataset.item)  # all items are candidates
    expected = 1.0 / (1.0 + np.exp(-torch_logits(trained, sample)))

    async def fill() -> None:
        store = RedisFeatureStore.connect(redis_url, dataset.table.features)
        await materialize(store, dataset.table)
        await store.close()

    asyncio.run(fill())
    with served(redis_url, bundle=tmp_path / "bundle") as client:
        ranking = client.rank(
            user=int(dataset.table.user_keys[dataset.sample_user[index]]),
            candidates=dataset.table.item_keys.tolist(),
            time_ms=int(dataset.sample_time_ms[index]),
        )
    assert (ranking.model, ranking.degraded) == ("toy", ())
    assert ranking.history_events == sample.history_offsets[-1] > 1
    assert len(np.unique(expected)) > 1
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)


def test_a_registered_retrieval_model_is_trained_evaluated_exported_and_served(tmp_path: Path, redis_url: str) -> None:
    ids = PairIds(features=RETRIEVAL_FEATURES, user_keys_N=np.arange(USERS) + 1, item_keys_M=np.arange(ITEMS) + 1)
    data = dataclasses.replace(planted(), ids=ids)
    config = recipes.RETRIEVAL_RECIPES["scaled"]()
    result = train_retrieval_run(config, data, tmp_path / "run")
    assert evaluate_retrieval_run(tmp_path / "run", data, "test") == result.test
    assert result.test.recall > 0.2  # a list of 5 of 100 items holds a twentieth by chance

    manifest = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "finder", name="scaled")
    assert manifest.certificate.max_abs_logit_difference < 1e-4
    write_tiny_bundle(tmp_path / "ranker")
    with served(redis_url, bundle=tmp_path / "ranker", retrieval=tmp_path / "finder") as client:
        found = client.retrieve(user=1, top_k=7)
    scores_M = (result.items_MD @ result.users_ND[0]).numpy()
    assert found.model == "scaled" and found.user_known
    assert found.items.tolist() == (np.argsort(-scores_M)[:7] + 1).tolist()
    np.testing.assert_allclose(found.scores, np.sort(scores_M)[::-1][:7], atol=1e-5)


def test_a_registered_retrieval_model_samples_neighbours_too(tmp_path: Path) -> None:
    config = override(recipes.RETRIEVAL_RECIPES["scaled"](), ["train.fan_outs=[4]", "train.epochs=8"])
    assert train_retrieval_run(config, planted(), tmp_path / "run").test.recall > 0.2
    with pytest.raises(ConfigError, match=r"recipe 'scaled': train.fan_outs has 2 values for 1 layers"):
        override(config, ["train.fan_outs=[4,4]"])


def test_settings_of_a_registered_model_are_read_checked_and_changed_like_any_other() -> None:
    config = override(RunConfig(recipe="r"), ["model.taste=2", "model.kind=toy"])
    assert config.model == ToyConfig(taste=2.0)
    assert from_json(RunConfig, to_json(config)) == config
    for change, message in (
        ("model.tast=1", r"unknown setting 'model.tast': did you mean 'model.taste'\?"),
        ("model.taste=-1", "model.taste is -1.0; allowed: 0 or more"),
        ("model.kind=tooy", r"model.kind is 'tooy': did you mean 'toy'\?"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(config, [change])
    with pytest.raises(ConfigError, match="unknown setting 'model.reads'"):  # it is no setting
        from_json(RunConfig, '{"recipe": "r", "model": {"kind": "toy", "reads": "events"}}')


def test_a_model_that_reads_a_history_is_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model 'toy' reads a history, but 'one_off' declares none"):
        train(override(toy_recipe(), ["tables.dims={}"]), odd_dataset(ONE_OFF, tmp_path), tmp_path / "run")


@pytest.mark.parametrize("name", [name for name in RANKING_MODELS if name != "toy"])
def test_every_ranking_model_is_registered_under_the_kind_of_its_defaults(name: str) -> None:
    config = RANKING_MODELS[name].config()
    assert config.kind == name and config.reads in ("nothing", "events", "distinct_events")


@pytest.mark.parametrize("name", [name for name in RETRIEVAL_MODELS if name != "scaled"])
def test_every_retrieval_model_is_registered_under_the_kind_of_its_defaults(name: str) -> None:
    config = RETRIEVAL_MODELS[name].config()
    assert config.kind == name
    assert RETRIEVAL_MODELS[name].net is None or make_layers(config).hops == config.layers
