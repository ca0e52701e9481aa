"""Ranking all items against brute force, and training on communities that a model must find."""

import dataclasses

import numpy as np
import pytest
import torch
from support.planted import COMMUNITIES, ITEMS, ITEMS_EACH, USERS, USERS_EACH, planted, popularity_metrics

from recsys.data.interactions.pairs import Pairs, make_pairs
from recsys.errors import ConfigError, InvalidInputError
from recsys.models.retrieval.mf import IdRows, full_rows
from recsys.training.retrieval.full_batch import EpochProgress, FullBatchConfig, train_full_batch
from recsys.training.retrieval.ranking import rank_all, top_items

SMALL = FullBatchConfig(dim=8, epochs=60, learning_rate=0.03, validation_users=0, list_length=5)


def random_pairs(random: np.random.Generator, users: int, items: int, number: int) -> Pairs:
    return make_pairs(random.integers(0, users, number), random.integers(0, items, number))


def items_by_user(pairs: Pairs) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for user, item in zip(pairs.user_E.tolist(), pairs.item_E.tolist(), strict=True):
        found.setdefault(user, set()).add(item)
    return found


@pytest.mark.parametrize(("users", "items", "k"), [(7, 5, 5), (40, 64, 20), (300, 1000, 20), (600, 130, 1)])
def test_ranking_equals_brute_force(users: int, items: int, k: int) -> None:
    random = np.random.default_rng(users)
    users_ND, items_MD = (
        torch.from_numpy(random.normal(size=(users, 6))),
        torch.from_numpy(random.normal(size=(items, 6))),
    )
    seen, held = random_pairs(random, users, items, 5 * users), random_pairs(random, users, items, 2 * users)
    wanted = random_pairs(random, users - 1, items, 3 * users)  # the last user wants nothing
    seen_by, held_by, wanted_by = items_by_user(seen), items_by_user(held), items_by_user(wanted)

    recalls, capped, ndcgs = [], [], []
    for user, relevant in wanted_by.items():
        scores = (items_MD @ users_ND[user]).tolist()
        allowed = [i for i in range(items) if i not in seen_by.get(user, ()) and i not in held_by.get(user, ())]
        best = sorted(allowed, key=lambda i: -scores[i])[:k]
        hits = [item in relevant for item in best]
        recalls.append(sum(hits) / len(relevant))
        capped.append(sum(hits) / min(k, len(relevant)))
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(relevant))))
        ndcgs.append(sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits)) / ideal)

    got = rank_all(users_ND, items_MD, relevant=wanted, excluded=(seen, held), list_length=k)
    assert got.users == len(wanted_by) < users
    assert got.recall == pytest.approx(np.mean(recalls))
    assert got.capped_recall == pytest.approx(np.mean(capped))
    assert got.ndcg == pytest.approx(np.mean(ndcgs))


def test_excluded_items_are_never_listed_even_where_too_few_are_left() -> None:
    nothing_left = make_pairs(np.zeros(4, dtype=np.int64), np.arange(4))
    one_left = make_pairs(np.ones(3, dtype=np.int64), np.array([0, 1, 3]))
    found = top_items(
        torch.ones(2, 1), torch.ones(4, 1), np.array([0, 1]), excluded=(nothing_left, one_left), list_length=2
    )
    assert found.tolist() == [[-1, -1], [2, -1]]


def test_equal_scores_do_not_favour_low_ids() -> None:
    # All 1,000 items score the same, and only the first 100 are relevant: a list of 100 holds 10 of them by chance.
    relevant = make_pairs(np.zeros(100, dtype=np.int64), np.arange(100))
    got = rank_all(torch.ones(1, 2), torch.ones(1000, 2), relevant=relevant, excluded=(), list_length=100)
    assert 0.02 < got.recall < 0.2


@pytest.mark.parametrize("model", ["mf", "lightgcn"])
@pytest.mark.parametrize("rows", ["full", "one per community", "two hashed"])
def test_every_model_finds_planted_communities(model: str, rows: str) -> None:
    data = planted()
    config = dataclasses.replace(SMALL, model=model)
    result = train_full_batch(config, data, *some_rows(rows))
    popular = popularity_metrics(data)
    factor = 1.2 if rows == "two hashed" else 2.5  # half as many rows as ids, at random, lose most of it
    assert result.test.ndcg > factor * popular.ndcg
    assert result.test.capped_recall > factor * popular.capped_recall
    assert result.test.users == USERS


def some_rows(name: str) -> tuple[IdRows, IdRows]:
    if name == "full":
        return full_rows(USERS), full_rows(ITEMS)
    if name == "one per community":
        users, items = np.arange(USERS) // USERS_EACH, np.arange(ITEMS) // ITEMS_EACH
        return tuple(IdRows(rows_NK=ids[:, None], num_rows=COMMUNITIES) for ids in (users, items))  # type: ignore[return-value]
    random = np.random.default_rng(1)
    return tuple(
        IdRows(rows_NK=random.integers(0, ids // 2, size=(ids, 2)), num_rows=ids // 2) for ids in (USERS, ITEMS)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("model", ["mf", "lightgcn"])
def test_runs_of_one_seed_are_equal_and_of_two_differ(model: str) -> None:
    data, config = planted(), dataclasses.replace(SMALL, model=model, epochs=7)
    torch.manual_seed(99)
    first = train_full_batch(config, data, *some_rows("two hashed"))
    torch.manual_seed(100)  # the caller's own random numbers have no part in it
    state = torch.get_rng_state()
    again = train_full_batch(config, data, *some_rows("two hashed"))
    assert torch.equal(state, torch.get_rng_state())
    other = train_full_batch(dataclasses.replace(config, seed=1), data, *some_rows("two hashed"))
    assert torch.equal(first.users_ND, again.users_ND) and torch.equal(first.items_MD, again.items_MD)
    assert first.test == again.test
    assert not torch.equal(first.users_ND, other.users_ND)


def test_the_best_validated_epoch_is_tested_and_patience_ends_a_run() -> None:
    seen: list[EpochProgress] = []
    config = dataclasses.replace(SMALL, epochs=1000, validate_every=4, patience=12)
    data = planted()
    result = train_full_batch(config, data, full_rows(USERS), full_rows(ITEMS), report=seen.append)
    assert [progress.epoch for progress in seen] == list(range(1, result.epochs + 1))
    validated = {progress.epoch: progress.validation for progress in seen if progress.validation is not None}
    assert list(validated) == list(range(4, result.epochs + 1, 4))
    recalls = {epoch: metrics.capped_recall for epoch, metrics in validated.items()}
    assert result.best_epoch == max(recalls, key=lambda epoch: recalls[epoch])  # the first of the best
    assert result.validation == validated[result.best_epoch]
    assert result.epochs == result.best_epoch + 12 < 1000

    until_best = dataclasses.replace(config, epochs=result.best_epoch)
    same = train_full_batch(until_best, data, full_rows(USERS), full_rows(ITEMS))
    assert torch.equal(same.users_ND, result.users_ND)
    assert same.test == result.test


def test_validation_excludes_training_items_only_and_the_test_both() -> None:
    data = planted()
    result = train_full_batch(dataclasses.replace(SMALL, epochs=10), data, full_rows(USERS), full_rows(ITEMS))
    vectors = result.users_ND, result.items_MD
    expected = rank_all(*vectors, relevant=data.validation, excluded=(data.train,), list_length=5)
    assert result.validation == expected
    assert result.test == rank_all(*vectors, relevant=data.test, excluded=(data.train, data.validation), list_length=5)


def test_the_validation_sample_has_the_same_users_for_every_seed() -> None:
    data, sizes = planted(), []
    for seed in (0, 1):
        config = dataclasses.replace(SMALL, epochs=1, validation_users=20, seed=seed, learning_rate=0.0, init_std=0.0)
        result = train_full_batch(config, data, full_rows(USERS), full_rows(ITEMS))
        sizes.append(result.validation)  # of vectors that are all zero: depends on nothing but the users
    assert sizes[0] == sizes[1]
    assert sizes[0].users == 20


def test_a_report_that_raises_ends_the_run_between_epochs() -> None:
    seen: list[int] = []

    def stop_after_three(progress: EpochProgress) -> None:
        seen.append(progress.epoch)
        if progress.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_full_batch(SMALL, planted(), full_rows(USERS), full_rows(ITEMS), report=stop_after_three)
    assert seen == [1, 2, 3]


def test_weight_decay_pulls_rows_to_zero() -> None:
    norms = [
        train_full_batch(
            dataclasses.replace(SMALL, epochs=40, weight_decay=decay), planted(), full_rows(USERS), full_rows(ITEMS)
        ).users_ND.norm()
        for decay in (0.0, 1e-2)
    ]
    assert norms[1] < 0.5 * norms[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lightgbm"}, "model is 'lightgbm': did you mean 'lightgcn'"),
        ({"epochs": 0}, "epochs is 0; allowed: 1 or more"),
        ({"patience": 0}, "patience is 0; allowed: 1 or more"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001; allowed: 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; allowed: 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]


def test_data_that_does_not_fit_is_refused() -> None:
    data, rows = planted(), (full_rows(USERS), full_rows(ITEMS))
    empty = make_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    with pytest.raises(InvalidInputError, match="planted: the validation part is empty; expected at least one pair"):
        train_full_batch(SMALL, dataclasses.replace(data, validation=empty), *rows)
    with pytest.raises(InvalidInputError, match="rows of 3 items; expected 100"):
        train_full_batch(SMALL, data, rows[0], full_rows(3))
    with pytest.raises(InvalidInputError, match="list_length is 101; allowed: at least 1, at most the 100 items"):
        train_full_batch(dataclasses.replace(SMALL, list_length=101, epochs=10), data, *rows)
    with pytest.raises(InvalidInputError, match="there are no relevant items to find"):
        rank_all(torch.ones(1, 1), torch.ones(3, 1), relevant=empty, excluded=(), list_length=1)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    config = dataclasses.replace(SMALL, learning_rate=1e30)
    with pytest.raises(InvalidInputError, match=r"epoch \d+: the loss is (nan|inf); lower the learning rate"):
        train_full_batch(config, planted(), full_rows(USERS), full_rows(ITEMS))
