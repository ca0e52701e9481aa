"""A trained model that knows users by their history to a bundle, with its certificate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

import recsys
from recsys.bundle import RESAMPLES, GraphInfo, Manifest, TableInfo, bundle_writer
from recsys.bundle.evaluation import resamples_bytes
from recsys.bundle.index import index_fingerprint
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.evaluation.predictions import UserValues
from recsys.export.retrieval.by_history.certificate import Reference, certify_histories, history_requests
from recsys.export.retrieval.by_history.linear.model import LinearExport
from recsys.export.retrieval.by_history.two_tower.model import TowerExport
from recsys.export.retrieval.codes import Coarse
from recsys.export.retrieval.index import MeasuredIndex, certify_index
from recsys.export.retrieval.lists import measured_lists
from recsys.export.retrieval.rerank import LEAST_RECALL
from recsys.export.retrieval.segments import Segments, add_segments
from recsys.export.retrieval.shared_users.add import SharedUsers, add_shared_users
from recsys.export.retrieval.similar import add_similar
from recsys.features.history.records import require_history
from recsys.features.number_transform import NumberTransform
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import fingerprint
from recsys.training.retrieval.ranking import RankingMetrics
from recsys.training.retrieval.trained import masked_pairs
from recsys.training.run.record import code_version, run_date
from recsys.training.settings import to_json


class HistoryModel(Reference, Protocol):
    """A run's model, ready to be exported."""

    config: RetrievalRunConfig
    notes: tuple[str, ...]
    events: UserEvents
    """Of the users when the test part begins."""

    @property
    def numbers(self) -> Mapping[str, NumberTransform]:
        """Transforms of the numeric features that it reads, by input name."""
        ...

    def evaluate(self) -> tuple[RankingMetrics, UserValues]:
        """Metrics of its lists on the test part."""
        ...

    def write(self, folder: Path, coarse: Coarse) -> tuple[dict[str, GraphInfo], dict[str, TableInfo]]:
        """Write the graph ``retrieve``, the graph ``item`` if it makes rows of items, and their tables, with these
        codes of the items.

        Raises:
            BundleError: the graph ``item`` makes other rows than the model.
        """
        ...


HISTORY_MODELS: Mapping[str, Callable[[Path, Interactions], HistoryModel]] = {
    "linear": LinearExport,
    "two_tower": TowerExport,
}
"""Kind of model -> how a run of it is read."""


def export_history_bundle(
    run_dir: Path,
    interactions: Interactions,
    path: Path,
    *,
    kind: str,
    name: str,
    segments: Segments | None = None,
    coarse: Coarse = "int8",
    shared_users: SharedUsers | None = None,
    least_recall: float = LEAST_RECALL,
    measured_index: Callable[[MeasuredIndex], None] = lambda _: None,
    overwrite: bool = False,
    created_at: str = "",
) -> Manifest:
    """Write a bundle with a certificate from real users' histories; as ``export_retrieval_bundle``, which comes here.

    Args:
        run_dir, interactions, path, name, segments, coarse, least_recall, shared_users, measured_index, overwrite,
            created_at: as there.
        kind: of the model, one of ``HISTORY_MODELS``.

    Raises:
        InvalidInputError: ``path`` exists, or the FeatureSet declares no history.
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        BundleError: ONNX Runtime's lists differ from the trained model's by more than rounding; nothing is written.
    """
    ids = ids_of(interactions)
    require_history(ids.features)
    model = HISTORY_MODELS[kind](run_dir, interactions)
    config = model.config
    test, of_users = model.evaluate()
    measured, baselines = measured_lists(
        test, of_users, interactions, config, excluded=masked_pairs(config, interactions)
    )
    with bundle_writer(path, overwrite=overwrite) as writer:
        (writer.folder / RESAMPLES).write_bytes(resamples_bytes(measured.resamples))
        graphs, tables = model.write(writer.folder, coarse)
        if segments is not None:
            retrieve, length = graphs["retrieve"], config.train.list_length
            graphs["retrieve"], tables = add_segments(
                writer.folder, retrieve, tables, segments, ids.item_keys_M, list_length=length
            )
        certificate = certify_histories(
            writer.folder / graphs["retrieve"].file,
            model,
            ids,
            events=model.events,
            users=np.unique(interactions.test.user_E),
            list_length=config.train.list_length,
            beside={} if segments is None else segments.missing,
        )
        graphs, tables = add_similar(writer.folder, graphs, tables)
        tables, shared = add_shared_users(writer.folder, tables, interactions, shared_users or SharedUsers())
        index = certify_index(
            writer.folder,
            graphs["retrieve"].file,
            tables,
            history_requests(
                writer.folder / graphs["retrieve"].file,
                model,
                ids,
                model.events,
                np.unique(interactions.test.user_E),
                beside={} if segments is None else segments.missing,
            ),
            list_length=config.train.list_length,
            least_recall=least_recall,
        )
        measured_index(index)
        return writer.finish(
            Manifest(
                model=name,
                kind="retrieval",
                feature_set=ids.features,
                graphs=graphs,
                tables=tables,
                metrics=measured.metrics,
                evaluation=measured.evaluation,
                certificate=certificate,
                baselines=baselines,
                numbers=model.numbers,
                training={
                    "recipe": config.recipe,
                    "config": json.loads(to_json(config)),
                    "notes": list(model.notes),
                    **({} if segments is None else {"segments": segments.note}),
                    **({"shared_users": shared} if shared else {}),
                    "data": fingerprint(interactions),
                    "commit": code_version()[0],
                    "recsys": recsys.__version__,
                    "torch": str(torch.__version__),
                },
                knows_users_by="history",
                index=index.info,
                index_fingerprint=_index_of(writer.folder, tables),
                created_at=created_at or run_date(run_dir) or datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def _index_of(folder: Path, tables: Mapping[str, TableInfo]) -> str:
    """The fingerprint of the items that a bundle's users are compared with."""
    keys, rows = (tables[f"item_id.{name}"].read(folder)[1:] for name in ("keys", "rows"))
    return index_fingerprint(keys.astype(np.int64), rows.astype(np.float32))
