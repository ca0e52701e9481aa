"""A trained closed form to a bundle that knows users by their history, with its certificate.

Legend: ``M`` items, ``J`` neighbours, ``S`` events of a history.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import recsys
from recsys.bundle import RESAMPLES, Manifest, bundle_writer
from recsys.bundle.evaluation import resamples_bytes
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.export.retrieval.by_history.certificate import certify_histories, certify_item_rows
from recsys.export.retrieval.by_history.graph import HistoryTables, write_history_graph
from recsys.export.retrieval.by_history.item_graph import write_item_graph
from recsys.export.retrieval.lists import measured_lists
from recsys.features.history.records import require_history
from recsys.models.retrieval.linear import LinearModel
from recsys.training.retrieval.folder import fingerprint
from recsys.training.retrieval.linear.fit import evaluate_model, load_fitted
from recsys.training.retrieval.linear.histories import histories, user_events
from recsys.training.retrieval.trained import masked_pairs
from recsys.training.run.record import code_version
from recsys.training.settings import to_json


def export_history_bundle(
    run_dir: Path, interactions: Interactions, path: Path, *, name: str, overwrite: bool = False, created_at: str = ""
) -> Manifest:
    """Write a bundle with a certificate from real users' histories; as ``export_retrieval_bundle``, which comes here.

    Raises:
        InvalidInputError: ``path`` exists, or the FeatureSet declares no history.
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        BundleError: ONNX Runtime's lists differ from the trained model's by more than rounding; nothing is written.
    """
    ids = ids_of(interactions)
    require_history(ids.features)
    config, fitted = load_fitted(run_dir, interactions)
    model, excluded = fitted.model, masked_pairs(config, interactions)
    test, of_users = evaluate_model(model, config, interactions, interactions.test, test=True)
    measured, baselines = measured_lists(test, of_users, interactions, config, excluded=excluded)
    with bundle_writer(path, overwrite=overwrite) as writer:
        (writer.folder / RESAMPLES).write_bytes(resamples_bytes(measured.resamples))
        retrieve, infos = write_history_graph(
            history_tables(model, ids),
            writer.folder,
            item_id=ids.features.item_id.name,
            takes_added=fitted.attributes is not None,
        )
        graphs = {"retrieve": retrieve}
        if fitted.attributes is not None:
            graphs["item"], of_item = write_item_graph(fitted.attributes, ids.features, writer.folder)
            infos = {**infos, **of_item}
            certify_item_rows(writer.folder / graphs["item"].file, fitted.attributes, interactions)
        certificate = certify_histories(
            writer.folder / retrieve.file,
            model,
            ids,
            events=user_events(config, interactions),
            history_NM=histories(config, interactions, model.settings.weights, test=True),
            users=np.unique(interactions.test.user_E),
            list_length=config.train.list_length,
            takes_added=fitted.attributes is not None,
        )
        return writer.finish(
            Manifest(
                model=name,
                kind="retrieval",
                feature_set=ids.features,
                graphs=graphs,
                tables=infos,
                metrics=measured.metrics,
                evaluation=measured.evaluation,
                certificate=certificate,
                baselines=baselines,
                training={
                    "recipe": config.recipe,
                    "config": json.loads(to_json(config)),
                    "notes": list(fitted.notes),
                    "data": fingerprint(interactions),
                    "commit": code_version()[0],
                    "recsys": recsys.__version__,
                },
                knows_users_by="history",
                created_at=created_at or datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def history_tables(model: LinearModel, ids: PairIds) -> HistoryTables:
    """The tables of a model: of the items with a training pair, for nothing is known of the others."""
    known = np.flatnonzero(model.popularity_M > 0)
    place_M = np.full(len(model.popularity_M) + 1, -1, dtype=np.int32)  # the last: of none
    place_M[known] = np.arange(len(known))
    names = ids.item_names_M
    return HistoryTables(
        item_keys=ids.item_keys_M[known],
        history_MD=model.history_MK[known],
        items_MD=model.items_MK[known],
        neighbours_MJ=place_M[model.near_MJ[known]],
        added_MJ=model.add_MJ[known],
        popularity_M=model.popularity_M[known],
        item_names_M=None if names is None else [names[item] for item in known.tolist()],
        weights=model.settings.weights,
    )
