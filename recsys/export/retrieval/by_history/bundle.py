"""A trained closed form to a bundle that knows users by their history, with its certificate.

Legend: ``M`` items, ``J`` neighbours, ``S`` events of a history.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
from scipy.sparse import csr_matrix

import recsys
from recsys.arrays import Int64Array
from recsys.bundle import RESAMPLES, Certificate, Manifest, bundle_writer
from recsys.bundle.evaluation import resamples_bytes
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.errors import BundleError
from recsys.export.certificate import TOLERANCE
from recsys.export.retrieval.by_history.graph import HistoryTables, write_history_graph
from recsys.export.retrieval.lists import LISTS, measured_lists
from recsys.features.hashing import MISSING
from recsys.features.history.records import require_history
from recsys.models.retrieval.linear import LinearModel
from recsys.training.retrieval.folder import fingerprint
from recsys.training.retrieval.linear.fit import evaluate_model, load_fitted, scores_of
from recsys.training.retrieval.linear.histories import histories, history_inputs, user_events
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
        graph, infos = write_history_graph(history_tables(model, ids), writer.folder, item_id=ids.features.item_id.name)
        certificate = certify_histories(
            writer.folder / graph.file,
            model,
            ids,
            events=user_events(config, interactions),
            history_NM=histories(config, interactions, model.settings.weights, test=True),
            users=np.unique(interactions.test.user_E),
            list_length=config.train.list_length,
        )
        return writer.finish(
            Manifest(
                model=name,
                kind="retrieval",
                feature_set=ids.features,
                graphs={"retrieve": graph},
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


def certify_histories(
    graph: Path,
    model: LinearModel,
    ids: PairIds,
    *,
    events: UserEvents,
    history_NM: csr_matrix,
    users: Int64Array,
    list_length: int,
) -> Certificate:
    """Compare the graph's lists, given the events of up to ``LISTS`` of these users, with the trained model's.

    As in ``certify_lists``, at each place the two scores must agree, and the graph's score of an item and the model's
    own of it; the tolerance grows with scores above 1.

    Args:
        graph: the file.
        model: as it was trained.
        ids: of users and items.
        events: of the users, as a store has them.
        history_NM: the same as the model takes them.
        users: of the test part.
        list_length: k.

    Raises:
        BundleError: they do not agree.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    fields = [each.name.removeprefix("history.") for each in session.get_inputs() if each.name.startswith("history.")]
    score, index_of = scores_of(model, history_NM), np.argsort(ids.item_keys_M)
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(users)[:LISTS]
    worst, tolerance, compared = 0.0, TOLERANCE, 0
    for user in chosen.tolist():
        (scores_M,) = score(np.array([user])).numpy()
        expected = np.sort(scores_M[scores_M > -np.inf])[::-1][:list_length]
        columns = history_inputs(events, user, ids, fields)
        got_keys, got, known, _ = session.run(
            ["items", "scores", "known", "history_known"],
            {
                "user_id": ids.user_keys_N[[user]],
                "seen": np.full(1, MISSING),
                "k": np.array(list_length, dtype=np.int64),
                **columns,
            },
        )
        items = index_of[np.searchsorted(ids.item_keys_M, got_keys, sorter=index_of)]
        tolerance = max(tolerance, TOLERANCE * float(np.abs(expected).max(initial=0.0)))
        if bool(known[0]) != (history_NM[user].multiply(model.popularity_M > 0).max() > 0):
            raise BundleError(f"certificate: ONNX Runtime and the model differ in if user {user} is known. {_KEPT}")
        if (distinct := len(np.unique(got_keys))) != len(expected):
            raise BundleError(
                f"certificate: ONNX Runtime gives {distinct} items for user {user}, the model {len(expected)}. {_KEPT}"
            )
        difference = float(np.maximum(np.abs(got - expected), np.abs(got - scores_M[items])).max(initial=0.0))
        if not difference <= tolerance:  # NaN is refused too
            raise BundleError(
                f"certificate: a score of ONNX Runtime's list differs from the model's by {difference:.2e} for user "
                f"{user}; allowed: {tolerance:.0e}. {_KEPT}"
            )
        worst, compared = max(worst, difference), compared + len(expected)
    return Certificate(
        requests=len(chosen),
        candidates=compared,
        max_abs_logit_difference=worst,
        tolerance=tolerance,
        compared=f"numpy {np.__version__} with onnxruntime {onnxruntime.__version__}, CPU",
    )


_KEPT = "The bundle was not written"
