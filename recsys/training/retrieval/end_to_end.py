"""Retrieval and ranking together, as a server answers from a user's id alone: candidates of one model, in the order of
the other.

A user of the test part is asked for at the moment of the first test sample: the ranking model reads the history and the
context of that moment, so nothing that is to be found.

Legend: ``G`` users, ``C`` candidates of each, ``k`` length of a list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import map_ids
from recsys.data.samples.stored import Samples
from recsys.errors import ConfigError, InvalidInputError
from recsys.evaluation.predictions import UserValues
from recsys.metrics import mean_resamples
from recsys.training.retrieval.evaluate import lists_of_run
from recsys.training.retrieval.folder import read_retrieval_config
from recsys.training.retrieval.ranking import RankingMetrics, list_metrics, sample_users
from recsys.training.retrieval.trained import of_run
from recsys.training.trained import TrainedModel, check_same_data, predict_split


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """Metrics of lists of one length, of the same users.

    Attributes:
        retrieval: the best candidates, as the retrieval model orders them.
        both: the best of the candidates, as the ranking model orders them.
        candidates: how many were ranked, at most.
        candidate_recall: of all candidates: more no order of them can reach.
        left_out: items of the retrieval model's index that the log has no more (``train.freeze_items``): they are no
            candidates here.
        recall_change: 95% interval of the recall of ``both`` less that of ``retrieval``, by resampling users; None: it
            is not defined.
    """

    retrieval: RankingMetrics
    both: RankingMetrics
    candidates: int
    candidate_recall: float
    left_out: int = 0
    recall_change: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """A sentence on whether the ranking model's order is the better one."""
        change = self.both.recall - self.retrieval.recall
        if self.recall_change is None:
            return f"ranking changes the recall by {change:+.4f}"
        low, high = self.recall_change
        said = f"ranking changes the recall by {change:+.4f} (95% interval {low:+.4f} to {high:+.4f})"
        if high < 0:
            return f"{said}: its order is worse than the candidates' own"
        return f"{said}: its order is better than the candidates' own" if low > 0 else f"{said}: no clear difference"


def evaluate_end_to_end(
    run_dir: Path, interactions: Interactions, trained: TrainedModel, dataset: Dataset, *, candidates: int, users: int
) -> EndToEnd:
    """Rank a retrieval model's candidates by a ranking model, for users of the test part.

    Args:
        run_dir: of the retrieval model's run.
        interactions: of that run.
        trained: the ranking model.
        dataset: of its run, with keys.
        candidates: that are ranked for each user; at least as many as a list is long.
        users: a fixed sample of so many; 0: all.

    Raises:
        ConfigError: the two runs are not of one log, or other data than theirs is given; or too few candidates.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        InvalidInputError: no user of the test part has a sample there.
    """
    config = read_retrieval_config(run_dir)
    ids, table, length = ids_of(interactions), dataset.table, config.train.list_length
    if not np.array_equal(ids.user_keys_N, table.user_keys) or not np.array_equal(ids.item_keys_M, table.item_keys):
        raise ConfigError(
            f"{run_dir} finds {interactions.num_items:,} items for {interactions.num_users:,} users, the log of the "
            f"ranking model has {len(table.item_keys):,} and {len(table.user_keys):,} others; give two runs on one log"
        )
    if candidates < length:
        raise ConfigError(f"--candidates is {candidates}; allowed: at least train.list_length of the run, {length}")
    check_same_data(trained, dataset)
    test = dataset.split("test")
    first_S = _first_samples(dataset, test)
    wanted = interactions.test.where(np.isin(interactions.test.user_E, dataset.sample_user[first_S]))
    if not len(wanted):
        raise InvalidInputError("no user of the test pairs has a test sample of the ranking model")
    wanted = sample_users(wanted, users)
    ranked_G = np.unique(wanted.user_E)
    moment_G = first_S[np.searchsorted(dataset.sample_user[first_S], ranked_G)]
    beside, _ = of_run(run_dir, interactions)
    left_out = beside.num_items - interactions.num_items
    found_GC = lists_of_run(run_dir, beside, ranked_G, test=True, length=candidates + left_out)
    found_GC = _of_the_log(found_GC, interactions.num_items)[:, :candidates]
    both_GC = _ranked(trained, dataset, moment_G, found_GC)
    items = interactions.num_items
    retrieval, before = list_metrics(found_GC[:, :length], wanted, num_items=items)
    both, after = list_metrics(both_GC[:, :length], wanted, num_items=items)
    return EndToEnd(
        retrieval=retrieval,
        both=both,
        candidates=found_GC.shape[1],
        candidate_recall=list_metrics(found_GC, wanted, num_items=items)[0].recall,
        left_out=left_out,
        recall_change=recall_change(before, after),
    )


def recall_change(before: UserValues, after: UserValues) -> tuple[float, float] | None:
    """95% interval of the change of the recall of the same users; None: it is not defined."""
    drawn = mean_resamples({"change": after.values["recall"] - before.values["recall"]})
    return drawn["change"].interval()


def _of_the_log(found_GC: Int64Array, items: int) -> Int64Array:
    """Lists without the items that come behind those of the log, in the same order; -1 last."""
    kept_GC = np.where(found_GC < items, found_GC, -1)
    return np.take_along_axis(kept_GC, np.argsort(kept_GC < 0, axis=1, kind="stable"), axis=1)


def _first_samples(dataset: Dataset, test: Int64Array) -> Int64Array:
    """The first test sample of each user that has one, in order of users."""
    order = np.lexsort((dataset.sample_time_ms[test], dataset.sample_user[test]))
    _, first = np.unique(dataset.sample_user[test[order]], return_index=True)
    return test[order][first]


def _ranked(trained: TrainedModel, dataset: Dataset, moment_G: Int64Array, found_GC: Int64Array) -> Int64Array:
    """Candidates of each user by the ranking model's logits at the moment of a sample, best first; -1 last."""
    row, column = np.nonzero(found_GC >= 0)
    moment = moment_G[row]
    mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in trained.row_maps.items()})
    count = len(moment)
    samples = Samples(
        position=np.asarray(dataset.samples.position)[moment],
        label=np.zeros(count, dtype=np.uint8),
        splits={"train": np.zeros(0, dtype=np.int64), "test": np.arange(count)},
    )
    shown = replace(
        mapped,
        samples=samples,
        context_row=dataset.context_row[moment],
        sample_user=dataset.sample_user[moment],
        sample_item=found_GC[row, column].astype(np.int32),
        sample_time_ms=dataset.sample_time_ms[moment],
        history_begin=dataset.history_begin[moment],
        history_end=dataset.history_end[moment],
    )
    predictions = predict_split(trained, shown, "test")
    assert predictions is not None
    logit_GC = np.full(found_GC.shape, -np.inf, dtype=np.float32)
    logit_GC[row, column] = predictions.logit
    order_GC = np.argsort(-logit_GC, axis=1, kind="stable")
    ranked: Int64Array = np.take_along_axis(found_GC, order_GC, axis=1)
    return ranked
