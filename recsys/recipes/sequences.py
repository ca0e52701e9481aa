"""Item sequences with attributes, ranked among 100 candidates (S3-Rec, CIKM 2020).

Strength of regularisation and number of epochs are by validation NDCG@10 of DIN; SDIM has the same.
"""

from __future__ import annotations

from dataclasses import replace

from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.sdim import SdimConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig

_ONCE = 1_000_000
"""Steps between evaluations: one at the end, because a validation part is several times an epoch."""


def din_lastfm() -> RunConfig:
    """DIN on 1,090 listeners' artists and their tags."""
    return RunConfig(
        recipe="din_lastfm",
        data=DataConfig(dataset="lastfm_sequences", recent=50),
        model=DinConfig(softmax=True, dropout=0.2),
        tables=TableConfig(dim=32, regularization=0.05),
        rows=RowConfig(min_count=1, spare_rows=0.0),
        train=TrainConfig(epochs=8, evaluate_every=_ONCE),
    )


def sdim_lastfm() -> RunConfig:
    """SDIM on the listeners of LastFM, over their 200 newest artists."""
    config = din_lastfm()
    return replace(
        config,
        recipe="sdim_lastfm",
        data=replace(config.data, recent=200),
        model=SdimConfig(softmax=True, dropout=0.2),
    )


def din_beauty() -> RunConfig:
    """DIN on 22,363 buyers of cosmetics, their categories and brands."""
    return RunConfig(
        recipe="din_beauty",
        data=DataConfig(dataset="beauty_sequences", recent=50),
        model=DinConfig(softmax=True, dropout=0.2),
        tables=TableConfig(dim=32, regularization=0.05),
        rows=RowConfig(min_count=1, spare_rows=0.0),
        train=TrainConfig(epochs=3, evaluate_every=_ONCE),
    )


def sdim_beauty() -> RunConfig:
    """SDIM on 22,363 buyers of cosmetics, their categories and brands."""
    config = din_beauty()
    return replace(config, recipe="sdim_beauty", model=SdimConfig(softmax=True, dropout=0.2))
