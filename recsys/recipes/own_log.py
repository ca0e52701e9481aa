"""A run on a log of one's own."""

from __future__ import annotations

from recsys.training.config import DataConfig, RunConfig


def din() -> RunConfig:
    """DIN on a log that `recsys prepare` wrote: give its folder as data.dataset=./FOLDER."""
    return RunConfig(recipe="din", data=DataConfig(dataset="./prepared"))
