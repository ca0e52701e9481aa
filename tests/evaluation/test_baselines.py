"""Popularity and chance beside a model: values from the definitions, and verdicts in words."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import finished

from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.evaluation.baselines import (
    Baseline,
    baselines_json,
    baselines_of,
    baselines_of_lists,
    baselines_of_stored_lists,
)
from recsys.evaluation.predictions import (
    PRIOR,
    Predictions,
    UserValues,
    predictions_of,
    read_predictions,
    read_user_values,
    write_user_values,
)
from recsys.evaluation.report import verdict_lines
from recsys.metrics import hit_rate_at_k, ndcg_at_k, recall_at_k
from recsys.training.retrieval.baselines import expected_values, with_baselines


def by_name(baselines: tuple[Baseline, ...]) -> dict[str, Baseline]:
    return {each.name: each for each in baselines}


def many(*, users: int = 60, length: int = 20) -> Predictions:
    """One list for each user, the positive anywhere; a model that mostly knows it, and popularity somewhat."""
    random = np.random.Generator(np.random.PCG64(3))
    label = np.zeros((users, length), dtype=np.uint8)
    label[np.arange(users), random.integers(length, size=users)] = 1
    count = users * length
    columns = {name: np.zeros(count, dtype=np.int64) for name in ("item_key", "time_ms", "earlier_events")}
    return Predictions(
        user_key=np.repeat(np.arange(users), length),
        label=label.reshape(-1),
        logit=(5 * label.reshape(-1) + random.normal(0, 1, count) - 4).astype(np.float32),
        popularity=np.clip(0.05 + 0.02 * label.reshape(-1) + random.normal(0, 0.02, count), 0.01, 0.99),
        chance=np.full(count, 0.2),
        user_train=np.ones(count, dtype=np.int32),
        item_train=np.ones(count, dtype=np.int32),
        **columns,
    )


def test_popularity_is_an_items_share_of_positives_in_the_train_split_alone() -> None:
    run = finished()
    dataset, test = run.dataset, run.dataset.split("test")
    training = dataset.split("train")
    found = predictions_of(dataset, test, np.zeros(len(test), dtype=np.float32))
    share = dataset.samples.label[training].mean()
    assert found.chance == pytest.approx(np.full(len(test), share))
    for place in range(0, len(test), 97):
        of_item = training[dataset.sample_item[training] == dataset.sample_item[test[place]]]
        positives = int(dataset.samples.label[of_item].sum())
        assert found.popularity[place] == pytest.approx((positives + PRIOR * share) / (len(of_item) + PRIOR))
    # What comes after the training cut, the test's own labels among it, does not count.
    label = dataset.samples.label.copy()
    label[np.setdiff1d(np.arange(len(label)), training)] = 1
    later = replace(dataset, samples=replace(dataset.samples, label=label))
    again = predictions_of(later, test, np.zeros(len(test), dtype=np.float32))
    assert again.popularity.tolist() == found.popularity.tolist()


def test_an_item_that_training_did_not_have_is_as_popular_as_all_are() -> None:
    run = finished()
    training, test = run.dataset.split("train"), run.dataset.split("test")
    unseen = run.dataset.sample_item[test[0]]
    kept = training[run.dataset.sample_item[training] != unseen]
    without = replace(
        run.dataset, samples=replace(run.dataset.samples, splits={**run.dataset.samples.splits, "train": kept})
    )
    found = predictions_of(without, test[:1], np.zeros(1, dtype=np.float32))
    assert found.popularity[0] == pytest.approx(found.chance[0])


def test_chance_is_what_its_definition_says() -> None:
    predictions = many(length=20)
    chance = by_name(baselines_of(predictions, resamples=20))["chance"].values
    positives = predictions.label.mean()
    assert chance["auc"] == 0.5 and chance["gauc"] == 0.5
    assert chance["log_loss"] == pytest.approx(-(positives * math.log(0.2) + (1 - positives) * math.log(0.8)))
    assert chance["calibration_error"] == pytest.approx(0.2 - positives)
    assert chance["hit_rate_at_10"] == pytest.approx(10 / 20)
    assert chance["ndcg_at_10"] == pytest.approx(sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / 20)
    assert chance["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 21)) / 20)


def test_a_model_is_told_better_no_better_and_worse_than_popularity() -> None:
    predictions = many()
    better = verdict_lines(baselines_of(predictions))
    assert better == [
        "better than popularity by AUC, GAUC, log loss, HR@10, NDCG@10, MRR",
        "better than chance by AUC, GAUC, log loss, HR@10, NDCG@10, MRR",
    ]
    random = np.random.Generator(np.random.PCG64(4))
    blind = replace(predictions, logit=random.normal(0, 1, len(predictions)).astype(np.float32))
    lines = verdict_lines(baselines_of(blind))
    assert any(line.startswith("no better than popularity by AUC: worse, difference -0.") for line in lines)
    assert any(line.startswith("no better than chance by AUC: difference ") for line in lines)
    assert any(line.startswith("no better than chance by log loss: worse, difference +") for line in lines)
    assert not any("AUC" in line for line in lines if line.startswith("better"))
    # The same order as popularity: no difference at all, so nothing is claimed.
    copied = replace(predictions, logit=np.log(predictions.popularity).astype(np.float32))
    assert "no better than popularity by AUC: difference +0.0000, 95 % interval +0.0000 to +0.0000" in verdict_lines(
        baselines_of(copied)
    )
    lead = baselines_json(baselines_of(blind))["popularity"]["lead"]["auc"]
    assert lead["better"] == "popularity" and lead["low"] <= lead["difference"] <= lead["high"] < 0


def test_a_few_users_decide_nothing() -> None:
    lines = verdict_lines(baselines_of(many(users=9)))
    assert all(line.startswith("not known if better than ") and "too few users" in line for line in lines)
    assert len(lines) == 2


def test_a_finished_run_stands_beside_both_in_its_record_and_metrics() -> None:
    run = finished()
    kept = read_predictions(run.folder, "test")
    expected = baselines_json(baselines_of(kept, run.result.test))
    assert baselines_json(run.result.baselines["test"]) == expected
    assert json.loads((run.folder / "metrics.json").read_text())["baselines"]["test"] == expected
    record = json.loads((run.folder / "record.json").read_text())
    assert record["baselines"]["test"]["popularity"]["auc"] == expected["popularity"]["auc"]
    assert record["baselines"]["validation"]["chance"]["auc"] == 0.5


def interactions() -> Interactions:
    """Four users, six items."""

    def pairs(*each: tuple[int, int]) -> Pairs:
        return Pairs(np.array([u for u, _ in each], dtype=np.int64), np.array([i for _, i in each], dtype=np.int64))

    train = pairs((0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 1), (3, 3))
    test = pairs((0, 2), (0, 3), (1, 1), (2, 5))
    return Interactions(
        train=train, validation=pairs(), test=test, num_users=4, num_items=6, source="six items", ids=None
    )


def test_chance_of_lists_is_the_mean_over_all_orders_of_the_candidates() -> None:
    data, k = interactions(), 2
    users = np.unique(data.test.user_E)
    values, means = expected_values(users, data.test, excluded=(data.train,), num_items=6, list_length=k)
    for place, user in enumerate(users):
        taken = set(data.train.item_E[data.train.user_E == user].tolist())
        wanted = set(data.test.item_E[data.test.user_E == user].tolist())
        orders = list(itertools.permutations([item for item in range(6) if item not in taken], k))
        hits = np.array([[item in wanted for item in order] for order in orders]).astype(np.int64)
        relevant = np.full(len(orders), len(wanted))
        assert values["recall"][place] == pytest.approx(recall_at_k(hits, relevant))
        assert values["ndcg"][place] == pytest.approx(ndcg_at_k(hits, relevant))
        assert values["hit_rate"][place] == pytest.approx(hit_rate_at_k(hits, relevant))
    assert means["recall"] == pytest.approx(values["recall"].mean())
    # Item 4 is every user's candidate: absent from three lists of 2 of 4. Item 0 is nobody's.
    absent = {0: 1.0, 4: 0.5**3, 5: 0.5**3, 3: 0.5**3, 2: 0.5**2, 1: 0.5}
    assert means["coverage"] == pytest.approx(1 - sum(absent.values()) / 6)


def test_popularity_of_lists_ranks_the_items_most_taken_among_those_not_taken(tmp_path: Path) -> None:
    data = interactions()
    users = np.unique(data.test.user_E)
    model = UserValues(user_G=users, values={"recall": np.ones(3), "ndcg": np.ones(3), "hit_rate": np.ones(3)})
    kept, means = with_baselines(model, data, data.test, excluded=(data.train,), list_length=1)
    # Taken: item 0 three times, 1 twice, 2 and 3 once. User 1's best of the others is 1, which they want.
    assert kept.baselines["popularity"]["hit_rate"][1] == 1.0
    assert kept.baselines["popularity"]["hit_rate"][2] == 0.0
    beside = baselines_of_lists(kept, means)
    write_user_values(tmp_path, {"test": kept})
    again = baselines_of_stored_lists(read_user_values(tmp_path, "test"))
    assert [each.lead for each in again] == [each.lead for each in beside]
    assert all(each.verdict == "none" for baseline in beside for each in baseline.lead), "three users are too few"
