"""MovieLens-1M: click prediction by the protocols of ReChorus 2.0 (RecSys 2024, table 6) and of Unified Embedding."""

from __future__ import annotations

from recsys.models.dcn import DcnConfig
from recsys.models.din import DinConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig


def din_movielens_1m() -> RunConfig:
    """DIN on the 50 newest events, one pass: a second one overfits, by validation AUC."""
    return RunConfig(
        recipe="din_movielens_1m",
        data=DataConfig(dataset="movielens_1m", recent=50),
        model=DinConfig(head_act="dice", dropout=0.1),
        tables=TableConfig(dim=16, dims={"movie_id": 32, "user_id": 32}, regularization=0.01),
        train=TrainConfig(epochs=1),
    )


def din_movielens_1m_demo() -> RunConfig:
    """DIN on the 20 newest events, one pass: about a minute on two cores."""
    return RunConfig(
        recipe="din_movielens_1m_demo",
        data=DataConfig(dataset="movielens_1m", recent=20),
        tables=TableConfig(dim=16),
        train=TrainConfig(epochs=1),
    )


def dcn_movielens_ctr() -> RunConfig:
    """DCN-V2 on user and movie, no history, split at random: Unified Embedding's protocol (NeurIPS 2023)."""
    return RunConfig(
        recipe="dcn_movielens_ctr",
        data=DataConfig(dataset="movielens_ctr"),
        model=DcnConfig(cross_layers=1, head=(192,)),
        tables=TableConfig(dim=32, learning_rate=0.2, regularization=0.02),
        rows=RowConfig(min_count=1, chunks=2),
        train=TrainConfig(epochs=6),
    )
