"""Runs on a log of one's own, by model: those that rank given items, and those that rank all items.

Nothing here is tuned to a data set: widths and rates are the defaults of the model and of training, and a sample reads
as many events as the FeatureSet declares (``history.recent``). Begin here, then change one setting at a time and look
at `recsys evaluate RUN --split validation`: ``train.epochs`` (one pass is often best), ``tables.regularization``,
``tables.dim``, ``model.dropout``.
"""

from __future__ import annotations

from dataclasses import replace

from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.network import RankingConfig
from recsys.models.ranking.sdim import SdimConfig
from recsys.models.retrieval.lightgcn import LightGcnConfig
from recsys.models.retrieval.linear import LinearConfig
from recsys.models.retrieval.mf import MfConfig
from recsys.models.retrieval.network import RetrievalConfig
from recsys.models.retrieval.ngcf import NgcfConfig
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig
from recsys.training.retrieval.config import InteractionsConfig, RetrievalRunConfig, RetrievalTrainConfig

FOLDER = "./prepared"


def linear() -> RetrievalRunConfig:
    """Linear filtering, a closed form without epochs: candidates by what a user did up to now; chooses its settings."""
    return RetrievalRunConfig(
        recipe="linear",
        data=InteractionsConfig(dataset=FOLDER),
        model=LinearConfig(),
        train=RetrievalTrainConfig(patience=0),
    )


def two_tower() -> RetrievalRunConfig:
    """Two towers: candidates by what a user did up to now, items by id and attributes; finds items without an event."""
    return RetrievalRunConfig(
        recipe="two_tower",
        data=InteractionsConfig(dataset=FOLDER),
        model=TwoTowerConfig(),
        train=RetrievalTrainConfig(
            loss="softmax",
            epochs=40,
            batch_size=1024,
            learning_rate=3e-3,
            sampled_items=512,
            validate_every=1,
            patience=3,
            checkpoint_epochs=1,
        ),
        rows=RowConfig(min_count=1),
    )


def din() -> RunConfig:
    """DIN: attention over the history, candidate by candidate."""
    return _on_own_log("din", DinConfig())


def sdim() -> RunConfig:
    """SDIM: histories of thousands of events (history.recent in the FeatureSet) at the cost of short ones."""
    return _on_own_log("sdim", SdimConfig())


def autoint() -> RunConfig:
    """AutoInt: features read each other, the history is their mean; `recsys explain` shows what they read."""
    return _on_own_log("autoint", AutoIntConfig(scale=True, layer_norm=True, history="mean"))


def autoint_plus() -> RunConfig:
    """AutoInt+: AutoInt with an MLP on the same features beside it."""
    return _on_own_log(
        "autoint_plus", AutoIntConfig(scale=True, layer_norm=True, history="mean", head=(200, 80), batch_norm=True)
    )


def dcn() -> RunConfig:
    """DCN-V2: products of features, and an MLP; reads no history."""
    return _on_own_log("dcn", DcnConfig(cross_layers=2, head=(200, 80)))


def _on_own_log(name: str, model: RankingConfig) -> RunConfig:
    return RunConfig(recipe=name, data=DataConfig(dataset=FOLDER, recent=0), model=model)


def mf() -> RetrievalRunConfig:
    """Matrix factorisation: finds candidates among all items, for users that it was trained on."""
    config = _retrieval_on_own_log("mf", MfConfig(init_std=0.1))
    train = replace(config.train, loss="softmax", temperature=0.2, sampled_items=512, batch_size=4096)
    return replace(config, train=train)


def lightgcn() -> RetrievalRunConfig:
    """LightGCN: the same with vectors averaged over who took what; slower to train, mostly better."""
    return _retrieval_on_own_log("lightgcn", LightGcnConfig(layers=2))


def ngcf() -> RetrievalRunConfig:
    """NGCF: the same with weights in each layer; wider vectors."""
    return _retrieval_on_own_log("ngcf", NgcfConfig(layers=2))


def _retrieval_on_own_log(name: str, model: RetrievalConfig) -> RetrievalRunConfig:
    train = RetrievalTrainConfig(
        epochs=100,
        batch_size=25_000,
        learning_rate=0.02,
        negatives=8,
        regularization=1e-3,
        validate_every=2,
        patience=5,
    )
    return RetrievalRunConfig(recipe=name, data=InteractionsConfig(dataset=FOLDER), model=model, train=train)
