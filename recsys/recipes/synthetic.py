"""The built-in synthetic log: small, free of licences, and its best possible AUC is known."""

from __future__ import annotations

from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig


def din_synthetic() -> RunConfig:
    """DIN on the 20 newest events: seconds on two cores."""
    return RunConfig(
        recipe="din_synthetic",
        data=DataConfig(dataset="synthetic", recent=20),
        tables=TableConfig(dim=16, learning_rate=0.05),
        rows=RowConfig(spare_rows=0.0),
        train=TrainConfig(epochs=3, batch_size=512),
    )
