"""A recipe that ranks all items in a comparison of row maps: chosen by validation recall.

Tables are those that are trained. A bundle holds the final vector of each id, whatever rows it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.compress.comparison import Shown
from recsys.compress.sweep import Outcome, StepProgress
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.tables import TableSpec
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.baselines import baselines_json
from recsys.models.registry import CLOSED_FORMS, SEQUENCE_MODELS
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import tower_features
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import fingerprint
from recsys.training.retrieval.pairs.rows import ROW_MAPS, all_maps, id_tables, kept_maps
from recsys.training.retrieval.ranking import metric_values
from recsys.training.retrieval.run import train_any
from recsys.training.retrieval.two_tower.data import tower_tables
from recsys.training.run.folder import load_row_maps
from recsys.training.tables.plan import table_specs


def check_model(config: RetrievalRunConfig) -> None:
    """Refuse a recipe without tables of its own.

    Raises:
        ConfigError: the model is a closed form, or its items are those of a bundle.
    """
    if (kind := config.model.kind) in CLOSED_FORMS:
        raise ConfigError(
            f"compress: {kind} is a closed form without tables of ids; fewer model.ranks and model.neighbours make it "
            "smaller: train it with several and `recsys compare` the runs"
        )
    if config.train.freeze_items:
        raise ConfigError("compress: train.freeze_items keeps the items of a bundle; there is no table to make smaller")


@dataclass(frozen=True, eq=False)
class RetrievalTrials:
    """See :class:`recsys.compress.sweep.Trials`.

    Attributes:
        config: the recipe.
        interactions: in their parts.
    """

    config: RetrievalRunConfig
    interactions: Interactions

    @property
    def shown(self) -> Shown:
        """See :class:`recsys.compress.sweep.Trials`."""
        k = self.config.train.list_length
        ndcg = f"NDCG@{k}"
        by_history = self.config.model.kind in SEQUENCE_MODELS
        return Shown(
            metric="recall",
            label=f"recall@{k}",
            others=(("validation", "ndcg", ndcg), ("test", "ndcg", ndcg)),
            notes=() if by_history else ("memory is that of training: a bundle holds the final vector of each id",),
        )

    def check(self) -> None:
        """See :class:`recsys.compress.sweep.Trials`."""
        check_model(self.config)
        if not len(self.interactions.validation):
            raise InvalidInputError(
                "the validation part is empty: there is nothing to choose by; set data.validation_share=0.1, or "
                "prepare the log with a validation part"
            )

    def fingerprint(self) -> str:
        """See :class:`recsys.compress.sweep.Trials`."""
        return fingerprint(self.interactions)

    def train(self, config: RetrievalRunConfig, folder: Path, report: Callable[[StepProgress], None]) -> Outcome:
        """See :class:`recsys.compress.sweep.Trials`."""
        result = train_any(config, self.interactions, folder, resume=True, report=report)
        assert result.validation is not None
        tables, row_maps = self._tables(config, folder)
        return Outcome(
            validation=metric_values(result.validation),
            test=metric_values(result.test),
            tables=tables,
            map_bytes=sum(row_map.size_bytes for row_map in row_maps),
            train_s=result.train_s,
            baselines={split: baselines_json(found) for split, found in result.baselines.items()},
        )

    def _tables(self, config: RetrievalRunConfig, folder: Path) -> tuple[list[TableSpec], Sequence[RowMap]]:
        """The tables of a run, and the row maps that it keeps."""
        if isinstance(config.model, TwoTowerConfig):
            features, of_tables = tower_features(ids_of(self.interactions).features), load_row_maps(folder / ROW_MAPS)
            return table_specs(tower_tables(config.model, features), config.rows, of_tables), list(of_tables.values())
        maps, sizes = kept_maps(config, folder), (self.interactions.num_users, self.interactions.num_items)
        return id_tables(config, all_maps(maps, num_users=sizes[0], num_items=sizes[1])), list(maps.values())
