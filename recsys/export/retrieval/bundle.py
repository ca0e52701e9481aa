"""A trained model that ranks all items to a bundle: one graph, ``retrieve`` (``graph.py``), and its tables.

Legend: ``N`` users, ``M`` items, ``D`` width, ``k`` length of a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

import recsys
from recsys.arrays import Int64Array
from recsys.bundle import ALL_ALLOWED, RESAMPLES, Certificate, Manifest, bundle_writer
from recsys.bundle.evaluation import resamples_bytes
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of
from recsys.errors import BundleError
from recsys.export.certificate import TOLERANCE
from recsys.export.retrieval.by_history.bundle import HISTORY_MODELS, export_history_bundle
from recsys.export.retrieval.codes import Coarse
from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph
from recsys.export.retrieval.index import MeasuredIndex, certify_index, chosen_users
from recsys.export.retrieval.lists import LISTS, measured_lists
from recsys.export.retrieval.rerank import LEAST_RECALL
from recsys.export.retrieval.segments import Segments, add_segments
from recsys.export.retrieval.shared_users.add import SharedUsers, add_shared_users
from recsys.export.retrieval.similar import add_similar
from recsys.features.hashing import MISSING
from recsys.features.names import ITEM_NAMES, open_names
from recsys.training.retrieval.evaluate import evaluate_users
from recsys.training.retrieval.folder import fingerprint, read_retrieval_config
from recsys.training.retrieval.trained import load_trained, masked_pairs, of_run
from recsys.training.run.record import code_version, run_date
from recsys.training.settings import to_json


def export_retrieval_bundle(
    run_dir: Path,
    interactions: Interactions,
    path: Path,
    *,
    name: str,
    segments: Segments | None = None,
    coarse: Coarse = "int8",
    shared_users: SharedUsers | None = None,
    least_recall: float = LEAST_RECALL,
    measured_index: Callable[[MeasuredIndex], None] = lambda _: None,
    overwrite: bool = False,
    created_at: str = "",
) -> Manifest:
    """Write a bundle with a certificate from real users' lists.

    Users and items of which training learnt nothing are left out: their vectors are chance. These users, and all that
    are not in the data, get the items with the most training pairs.

    Args:
        run_dir: of the run.
        interactions: what it was trained on.
        path: the bundle's folder.
        name: the model name that requests ask for.
        segments: lists for users who are not known (``segments_of``); None: what is popular with all.
        coarse: codes of the items that a search reads before their vectors.
        shared_users: tables of which users have which items; None: none.
        least_recall: share of exact lists that codes of bits must keep.
        measured_index: called with what was measured of the index.
        overwrite: replace an existing bundle.
        created_at: RFC 3339, on which the bundle's version depends; default: when the run began.

    Raises:
        InvalidInputError: ``path`` exists.
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        BundleError: ONNX Runtime's lists differ from torch's by more than rounding, or an item is named otherwise
            than in the data, or the index lacks items that it may not; nothing is written.
    """
    if (kind := read_retrieval_config(run_dir).model.kind) in HISTORY_MODELS:
        return export_history_bundle(
            run_dir,
            interactions,
            path,
            kind=kind,
            name=name,
            segments=segments,
            coarse=coarse,
            shared_users=shared_users,
            least_recall=least_recall,
            measured_index=measured_index,
            overwrite=overwrite,
            created_at=created_at,
        )
    interactions, index = of_run(run_dir, interactions)
    ids = ids_of(interactions)
    config, trainer, known = load_trained(run_dir, interactions)
    users_ND, items_MD = trainer.vectors()
    train, excluded = interactions.train, masked_pairs(config, interactions)
    users, items = np.flatnonzero(known.users_N), np.flatnonzero(known.items_M)
    names_M = None if ids.item_names_M is None else tuple(ids.item_names_M[item] for item in items)
    tables = RetrievalTables(
        user_keys=ids.user_keys_N[users],
        users_ND=users_ND[torch.from_numpy(users)].numpy(),
        item_keys=ids.item_keys_M[items],
        items_MD=items_MD[torch.from_numpy(items)].numpy(),
        popularity_M=np.bincount(train.item_E, minlength=interactions.num_items)[items].astype(np.float32),
        item_names_M=names_M,
    )
    test, of_users = evaluate_users(trainer, known, config, interactions, interactions.test, test=True)
    measured, baselines = measured_lists(test, of_users, interactions, config, excluded=excluded)
    with bundle_writer(path, overwrite=overwrite) as writer:
        (writer.folder / RESAMPLES).write_bytes(resamples_bytes(measured.resamples))
        graph, infos = write_retrieve_graph(tables, writer.folder, coarse=coarse)
        if segments is not None:
            length = config.train.list_length
            graph, infos = add_segments(writer.folder, graph, infos, segments, ids.item_keys_M, list_length=length)
        tested = users[np.isin(users, interactions.test.user_E)]
        certificate = certify_lists(
            writer.folder / graph.file,
            (users_ND, items_MD),
            ids,
            users=tested if len(tested) else users,
            excluded=excluded,
            left_out=np.flatnonzero(~known.items_M),
            list_length=config.train.list_length,
            beside={} if segments is None else segments.missing,
        )
        graphs, infos = add_similar(writer.folder, {"retrieve": graph}, infos)
        infos, shared = add_shared_users(writer.folder, infos, interactions, shared_users or SharedUsers())
        index_measured = certify_index(
            writer.folder,
            graph.file,
            infos,
            (
                {**({} if segments is None else segments.missing), **_of_user(user, ids, excluded)}
                for user in chosen_users(tested if len(tested) else users)
            ),
            list_length=config.train.list_length,
            least_recall=least_recall,
        )
        measured_index(index_measured)
        if names_M is not None:
            certify_names(writer.folder, tables.item_keys, names_M)
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
                    **({} if segments is None else {"segments": segments.note}),
                    **({"shared_users": shared} if shared else {}),
                    "data": fingerprint(interactions),
                    "commit": code_version()[0],
                    "recsys": recsys.__version__,
                    "torch": str(torch.__version__),
                },
                index=index_measured.info,
                index_fingerprint=index.fingerprint if index is not None else tables.index_fingerprint,
                created_at=created_at or run_date(run_dir) or datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def certify_lists(
    graph: Path,
    vectors: tuple[Tensor, Tensor],
    ids: PairIds,
    *,
    users: Int64Array,
    excluded: tuple[Pairs, ...],
    left_out: Int64Array,
    list_length: int,
    beside: Mapping[str, Int64Array] | None = None,
) -> Certificate:
    """Compare the graph's lists of up to ``LISTS`` of these users with torch's.

    Neither has ``excluded`` pairs, or items that are ``left_out``; ``beside`` are further inputs of the graph.

    Lists may differ where scores do not, by the tolerance: at each place the two scores, and the graph's score of an
    item and torch's own of it, must agree. The tolerance grows with scores above 1, as rounding does.

    Raises:
        BundleError: they do not agree.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    users_ND, items_MD = vectors
    index_of = np.argsort(ids.item_keys_M)
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(users)[:LISTS]
    worst, tolerance, compared = 0.0, TOLERANCE, 0
    for user in chosen.tolist():
        taken = np.unique(np.concatenate([left_out, *(_items_of(pairs, user) for pairs in excluded)]))
        scores_M = items_MD @ users_ND[user]
        scores_M[torch.from_numpy(taken)] = -torch.inf
        left = min(list_length, len(scores_M) - len(taken))
        expected = scores_M.topk(left).values.numpy()
        got_keys, got, known = session.run(
            ["items", "scores", "known"],
            {
                **(beside or {}),
                **ALL_ALLOWED,
                "user_id": ids.user_keys_N[[user]],
                "seen": ids.item_keys_M[taken] if len(taken) else np.full(1, MISSING),
                "k": np.array(list_length, dtype=np.int64),
            },
        )
        items = index_of[np.searchsorted(ids.item_keys_M, got_keys, sorter=index_of)]
        own = scores_M[torch.from_numpy(items)].numpy()
        tolerance = max(tolerance, TOLERANCE * float(np.abs(expected).max(initial=0.0)))
        if not known[0]:
            raise BundleError(f"certificate: ONNX Runtime does not know user {user}. The bundle was not written")
        if (distinct := len(np.unique(got_keys))) != left:
            raise BundleError(
                f"certificate: ONNX Runtime gives {distinct} items for user {user}, torch {left}. "
                "The bundle was not written"
            )
        difference = float(np.maximum(np.abs(got - expected), np.abs(got - own)).max(initial=0.0))
        if not difference <= tolerance:  # NaN is refused too
            raise BundleError(
                f"certificate: a score of ONNX Runtime's list differs from torch's by {difference:.2e} for user {user}"
                f"; allowed: {tolerance:.0e}. The bundle was not written"
            )
        worst, compared = max(worst, difference), compared + left
    return Certificate(
        requests=len(chosen),
        candidates=compared,
        max_abs_logit_difference=worst,
        tolerance=tolerance,
        compared=f"torch {torch.__version__} with onnxruntime {onnxruntime.__version__}, CPU",
    )


def certify_names(folder: Path, item_keys_M: Int64Array, names_M: Sequence[str]) -> None:
    """Compare the names that a bundle gives of all items with the data's.

    Raises:
        BundleError: one differs, or the file is not as it was written.
    """
    names = open_names(folder / ITEM_NAMES).find(item_keys_M)
    for key, name, found in zip(item_keys_M, names_M, names, strict=True):
        if name != found:
            raise BundleError(f"certificate: item {key} is named {name!r}, in the bundle {found!r}. It was not written")


def _of_user(user: int, ids: PairIds, excluded: tuple[Pairs, ...]) -> dict[str, Int64Array]:
    """Inputs of the graph: the user, and what the user's lists do not have."""
    taken = np.unique(np.concatenate([_items_of(pairs, user) for pairs in excluded]))
    seen = ids.item_keys_M[taken] if len(taken) else np.full(1, MISSING)
    return {"user_id": ids.user_keys_N[[user]], "seen": seen}


def _items_of(pairs: Pairs, user: int) -> Int64Array:
    begin, end = np.searchsorted(pairs.user_E, [user, user + 1])
    return pairs.item_E[begin:end]
