"""Long histories: SDIM and what it is compared with (`model.long`), on MovieLens-1M and a log with a known answer."""

from __future__ import annotations

from dataclasses import replace

from recsys.models.ranking.sdim import SdimConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig


def sdim_movielens_long() -> RunConfig:
    """SDIM over the 1,000 newest events, target attention over the 16 newest. Length: `data.recent`."""
    return RunConfig(
        recipe="sdim_movielens_long",
        data=DataConfig(dataset="movielens_1m_long", recent=1000),
        model=SdimConfig(dropout=0.1),
        tables=TableConfig(dim=16, dims={"movie_id": 32, "user_id": 32}, learning_rate=0.1, regularization=0.003),
        rows=RowConfig(spare_rows=0.0),
        train=TrainConfig(epochs=2, batch_size=512),
    )


def din_long_movielens() -> RunConfig:
    """sdim_movielens_long with target attention over all events in SDIM's place."""
    config = sdim_movielens_long()
    return replace(config, recipe="din_long_movielens", model=SdimConfig(long="din", dropout=0.1))


def din_short_movielens_long() -> RunConfig:
    """sdim_movielens_long with nothing in SDIM's place: target attention over the 16 newest events alone."""
    config = sdim_movielens_long()
    return replace(
        config,
        recipe="din_short_movielens_long",
        data=replace(config.data, recent=16),
        model=SdimConfig(long="none", dropout=0.1),
    )


def sdim_synthetic_long() -> RunConfig:
    """SDIM over 400 events of a log whose tastes only a long history tells; its best possible AUC is known."""
    return RunConfig(
        recipe="sdim_synthetic_long",
        data=DataConfig(dataset="synthetic_long", recent=400),
        model=SdimConfig(signatures=15, bits=4, dropout=0.1),
        tables=TableConfig(dim=8, dims={"genre": 32, "movie_id": 4}, learning_rate=0.2, regularization=0.01),
        rows=RowConfig(spare_rows=0.0),
        train=TrainConfig(epochs=3, batch_size=512),
    )
