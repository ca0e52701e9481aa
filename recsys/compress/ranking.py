"""A ranking recipe in a comparison of row maps: chosen by validation AUC."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recsys.compress.comparison import Shown
from recsys.compress.sweep import Outcome, StepProgress
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.errors import InvalidInputError
from recsys.evaluation.baselines import baselines_json
from recsys.training.config import RunConfig
from recsys.training.loop import train
from recsys.training.tables.plan import table_specs


@dataclass(frozen=True, eq=False)
class RankingTrials:
    """See :class:`recsys.compress.sweep.Trials`.

    Attributes:
        config: the recipe.
        dataset: with keys.
    """

    config: RunConfig
    dataset: Dataset

    shown: ClassVar[Shown] = Shown(
        metric="auc", label="AUC", others=(("test", "gauc", "GAUC"), ("test", "log_loss", "log loss"))
    )

    def check(self) -> None:
        """See :class:`recsys.compress.sweep.Trials`."""
        if not len(self.dataset.split("validation")):
            raise InvalidInputError("the validation split is empty: there is nothing to choose by")

    def fingerprint(self) -> str:
        """See :class:`recsys.compress.sweep.Trials`."""
        return data_fingerprint(self.dataset)

    def train(self, config: RunConfig, folder: Path, report: Callable[[StepProgress], None]) -> Outcome:
        """See :class:`recsys.compress.sweep.Trials`."""
        result = train(config, self.dataset, folder, resume=True, report=report)
        assert result.validation is not None
        row_maps = result.trained.row_maps
        samples = len(self.dataset.split("train")) * config.train.epochs
        return Outcome(
            validation=dataclasses.asdict(result.validation),
            test=None if result.test is None else dataclasses.asdict(result.test),
            tables=table_specs(config.tables, config.rows, row_maps),
            map_bytes=sum(row_map.size_bytes for row_map in row_maps.values()),
            train_s=samples / result.samples_per_s if result.samples_per_s else None,
            baselines={split: baselines_json(found) for split, found in result.baselines.items()},
        )
