"""MovieLens-1M, click prediction by the protocol of ReChorus 2.0 (RecSys 2024, table 6)."""

from __future__ import annotations

from recsys.models.din import DinConfig
from recsys.training.config import DataConfig, RunConfig, TableConfig, TrainConfig


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
