"""MovieLens-1M: click prediction by the protocols of ReChorus 2.0 (RecSys 2024, table 6) and of Unified Embedding, and
retrieval of movies beside it."""

from __future__ import annotations

import dataclasses

from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.din import DinConfig
from recsys.models.retrieval.lightgcn import LightGcnConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig
from recsys.training.retrieval.config import InteractionsConfig, RetrievalRunConfig, RetrievalTrainConfig


def din_movielens_1m() -> RunConfig:
    """DIN on the 50 newest events, one pass: a second one overfits, by validation AUC."""
    return RunConfig(
        recipe="din_movielens_1m",
        data=DataConfig(dataset="movielens_1m", recent=50),
        model=DinConfig(head_act="dice", dropout=0.1),
        tables=TableConfig(dim=16, dims={"movie_id": 32, "user_id": 32}, regularization=0.01),
        rows=RowConfig(spare_rows=0.0),
        train=TrainConfig(epochs=1),
    )


def autoint_movielens_1m() -> RunConfig:
    """AutoInt, one pass: the history is the mean of its 50 newest events, attribute by attribute."""
    return RunConfig(
        recipe="autoint_movielens_1m",
        data=DataConfig(dataset="movielens_1m", recent=50),
        model=AutoIntConfig(layers=2, attention_width=32, heads=2, scale=True, layer_norm=True, history="mean"),
        tables=TableConfig(dim=16, regularization=0.01),
        rows=RowConfig(spare_rows=0.0),
        train=TrainConfig(epochs=1),
    )


def autoint_movielens_temporal() -> RunConfig:
    """AutoInt on our larger test: the last tenth of each user's events."""
    return dataclasses.replace(
        autoint_movielens_1m(),
        recipe="autoint_movielens_temporal",
        data=DataConfig(dataset="movielens_1m_temporal", recent=50),
    )


def din_movielens_temporal() -> RunConfig:
    """DIN on our larger test: the last tenth of each user's events."""
    return dataclasses.replace(
        din_movielens_1m(),
        recipe="din_movielens_temporal",
        data=DataConfig(dataset="movielens_1m_temporal", recent=50),
    )


def din_movielens_1m_demo() -> RunConfig:
    """DIN on the 20 newest events, one pass: about a minute on two cores."""
    return RunConfig(
        recipe="din_movielens_1m_demo",
        data=DataConfig(dataset="movielens_1m", recent=20),
        tables=TableConfig(dim=16),
        rows=RowConfig(spare_rows=0.0),
        train=TrainConfig(epochs=1),
    )


def dcn_movielens_ctr() -> RunConfig:
    """DCN-V2 on user and movie, no history, split at random: Unified Embedding's protocol (NeurIPS 2023)."""
    return RunConfig(
        recipe="dcn_movielens_ctr",
        data=DataConfig(dataset="movielens_ctr"),
        model=DcnConfig(cross_layers=1, head=(192,)),
        tables=TableConfig(dim=32, learning_rate=0.2, regularization=0.02),
        rows=RowConfig(min_count=1, chunks=2, spare_rows=0.0),
        train=TrainConfig(epochs=6),
    )


def lightgcn_movielens_1m() -> RetrievalRunConfig:
    """LightGCN on ratings of 4 and more, cut in time where ``din_movielens_1m`` is: its candidates, for DIN to rank."""
    return RetrievalRunConfig(
        recipe="lightgcn_movielens_1m",
        data=InteractionsConfig(dataset="movielens_1m"),
        model=LightGcnConfig(layers=2),
        train=RetrievalTrainConfig(
            epochs=40, learning_rate=0.02, negatives=8, regularization=1e-3, validate_every=5, patience=4
        ),
    )
