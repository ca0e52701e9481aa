"""Notices of a run before its first step: settings that will not do what they are for on this data."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.data.samples.dataset import Dataset
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.training.config import RunConfig
from recsys.training.early_stopping import is_evaluated, needs_validation
from recsys.training.schedules import warmup_of
from recsys.training.warm_start.incremental import ids_without_room

FEW_STEPS = 50
"""Fewer hardly move a network from its first weights."""


def notices(
    config: RunConfig, dataset: Dataset, row_maps: Mapping[str, RowMap], *, steps_per_epoch: int
) -> tuple[str, ...]:
    """A sentence for each such setting, with what was made of it or what to change.

    Args:
        config: of the run.
        dataset: with only the samples that it trains on.
        row_maps: of the run.
        steps_per_epoch: of all its processes together.
    """
    settings, found = config.train, []
    steps = steps_per_epoch * settings.epochs
    samples = len(dataset.split("train"))
    if steps < FEW_STEPS:
        found.append(
            f"the run takes {_steps(steps)}: {samples:,} training samples in batches of {settings.batch_size:,}, "
            f"{settings.epochs:,} times. So few teach little: lower train.batch_size or raise train.epochs"
        )
    if not settings.learning_rate and not config.tables.learning_rate:
        found.append("train.learning_rate and tables.learning_rate are both 0: no step will change anything")
    if (warmup := warmup_of(settings, steps=steps)) < settings.warmup_steps:
        found.append(
            f"train.warmup_steps is {settings.warmup_steps:,}, and the run takes {_steps(steps)}: the warm-up is cut "
            f"to {warmup:,}, at most a third of the run"
        )
    if looking := needs_validation(settings):
        evaluations = sum(
            is_evaluated(settings, step=step, steps=steps, steps_per_epoch=steps_per_epoch)
            for step in range(1, steps + 1)
        )
        if evaluations == 1:
            found.append(
                f"{looking} has nothing to choose among: the run is evaluated once, after its last step; give "
                f"train.evaluate_every, at most {max(1, steps // 2):,}, or more than one of train.epochs"
            )
    found.extend(
        f"table {table}: no id was seen rows.min_count={config.rows.min_count} times in training, so all of them share "
        "one row, and nothing can be learnt of any; rows.min_count=1 gives each its own"
        for table, row_map in row_maps.items()
        if row_map.kind == "vocabulary"
        and row_map.ids is not None
        and not len(row_map.ids.entries()[0])
        and all(lookup.hashed is None for lookup in row_map.lookups)
    )
    if settings.warm_start and config.data.since:
        found.extend(ids_without_room(config, row_maps, dataset))
    return tuple(found)


def _steps(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps:,} steps"
