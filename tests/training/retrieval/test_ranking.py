"""An item among its user's candidates: by definition, beside popularity and chance, and in a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.item_sequences import SEQUENCES, sample_lines, write_sequences
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.errors import InvalidInputError
from recsys.metrics import one_positive_lists
from recsys.training.retrieval.baselines import with_baselines
from recsys.training.retrieval.ranking import metric_values, rank_scored, rank_users, top_items, top_scored

USERS, ITEMS, CANDIDATES = 300, 40, 20


def made() -> tuple[Interactions, CandidateLists]:
    """One item to find for each user, beside 19 others; who took what before are two items each."""
    random = np.random.default_rng(0)
    orders = np.stack([random.permutation(ITEMS) for _ in range(USERS)])
    train = make_pairs(np.repeat(np.arange(USERS), 2), orders[:, -2:].ravel())
    test = make_pairs(np.arange(USERS), orders[:, 0])
    data = Interactions(num_users=USERS, num_items=ITEMS, train=train, validation=test, test=test, source="made")
    return data, CandidateLists(user_G=np.arange(USERS), item_GC=orders[:, :CANDIDATES])


def test_metrics_among_candidates_are_those_of_lists_with_one_positive() -> None:
    data, lists = made()
    vectors = torch.from_numpy(np.random.default_rng(1).integers(-2, 3, (USERS + ITEMS, 4)).astype(np.float32))
    users_ND, items_MD = vectors[:USERS], vectors[USERS:]  # small integers: many ties
    metrics, values = rank_users(
        users_ND, items_MD, relevant=data.test, excluded=(data.train,), list_length=5, candidates=lists
    )
    score_GC = torch.einsum("gd,gcd->gc", users_ND, items_MD[torch.from_numpy(lists.item_GC)]).numpy()
    expected = one_positive_lists(
        np.tile(np.arange(CANDIDATES) == 0, USERS).astype(np.int64),
        score_GC.ravel(),
        np.repeat(np.arange(USERS), CANDIDATES),
    )
    assert expected is not None
    assert np.array_equal(values.values["hit_rate_at_10"], expected.hit_rate_G(10))
    assert metrics.ndcg_at_10 == pytest.approx(expected.ndcg_G(10).mean()) and metrics.candidates == CANDIDATES
    by_scores, _ = rank_scored(
        lambda users_B: users_ND[torch.from_numpy(users_B)] @ items_MD.t(),
        num_items=ITEMS,
        relevant=data.test,
        excluded=(data.train,),
        list_length=5,
        candidates=lists,
    )
    assert by_scores == metrics
    without, _ = rank_users(users_ND, items_MD, relevant=data.test, excluded=(data.train,), list_length=5)
    assert without.recall == metrics.recall and "hit_rate_at_10" not in metric_values(without)


def test_an_unknown_item_is_below_all_known_candidates() -> None:
    data, lists = made()
    first_M = np.isin(np.arange(ITEMS), data.test.item_E[:1])
    _, values = rank_users(
        torch.ones(USERS, 1),
        torch.ones(ITEMS, 1),
        relevant=data.test,
        excluded=(),
        list_length=5,
        barred_M=first_M,
        candidates=lists,
    )
    unknown_G = first_M[data.test.item_E]
    assert (values.values["hit_rate_at_10"][unknown_G] == 0).all() and unknown_G.any()
    assert (values.values["hit_rate_at_10"][~unknown_G] >= 0.5).all()


@pytest.mark.parametrize("length", [0, ITEMS + 1])
def test_a_list_longer_than_the_items_is_refused_by_vectors_and_by_scores(length: int) -> None:
    data, _ = made()
    said = rf"list_length is {length}; allowed: at least 1, at most the {ITEMS} items"
    vectors = (torch.ones(USERS, 1), torch.ones(ITEMS, 1))
    users_G = np.arange(USERS)
    asked = {"excluded": (), "list_length": length}
    with pytest.raises(InvalidInputError, match=said):
        rank_users(*vectors, relevant=data.test, **asked)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=said):
        top_items(*vectors, users_G, **asked)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=said):
        rank_scored(lambda users_B: torch.ones(len(users_B), ITEMS), num_items=ITEMS, relevant=data.test, **asked)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=said):
        top_scored(lambda users_B: torch.ones(len(users_B), ITEMS), users_G, num_items=ITEMS, **asked)  # type: ignore[arg-type]


def test_a_score_that_is_nan_is_no_right_answer_but_refused() -> None:
    data, lists = made()

    def one_nan(users_B: np.ndarray) -> torch.Tensor:
        scores_BM = torch.arange(ITEMS, dtype=torch.float32).repeat(len(users_B), 1)
        scores_BM[users_B == 7, data.test.item_E[7]] = torch.nan
        return scores_BM

    given = {"num_items": ITEMS, "relevant": data.test, "list_length": 5}
    said = "scores of user 7 are NaN; allowed: numbers, or -inf"
    with pytest.raises(InvalidInputError, match=said):
        rank_scored(one_nan, excluded=(), **given)  # type: ignore[arg-type]
    # Left out of the list, the item is a candidate all the same.
    with pytest.raises(InvalidInputError, match=said):
        rank_scored(one_nan, excluded=(data.test,), candidates=lists, **given)  # type: ignore[arg-type]
    rank_scored(one_nan, excluded=(data.test,), **given)  # type: ignore[arg-type]
    items_MD = torch.ones(ITEMS, 1)
    items_MD[3] = torch.nan
    with pytest.raises(InvalidInputError, match="scores of user 0 are NaN"):
        rank_users(torch.ones(USERS, 1), items_MD, relevant=data.test, excluded=(), list_length=5)
    barred_M = np.arange(ITEMS) == 3
    rank_users(torch.ones(USERS, 1), items_MD, relevant=data.test, excluded=(), list_length=5, barred_M=barred_M)


def test_popularity_and_chance_rank_the_same_candidates() -> None:
    data, lists = made()
    metrics, values = rank_users(
        torch.ones(USERS, 1),
        torch.zeros(ITEMS, 1),
        relevant=data.test,
        excluded=(data.train,),
        list_length=5,
        candidates=lists,
    )
    beside, means = with_baselines(values, data, data.test, excluded=(data.train,), list_length=5, candidates=lists)
    # A model without an opinion is chance.
    assert means["chance"]["hit_rate_at_10"] == pytest.approx(0.5) == pytest.approx(metrics.hit_rate_at_10)
    assert means["chance"]["ndcg_at_10"] == pytest.approx(metrics.ndcg_at_10)
    counts = np.bincount(data.train.item_E, minlength=ITEMS)[lists.item_GC]
    above_G, tied_G = (counts[:, 1:] > counts[:, :1]).sum(1), (counts[:, 1:] == counts[:, :1]).sum(1)
    expected_G = np.clip((10 - above_G) / (tied_G + 1), 0, 1)
    assert np.allclose(beside.baselines["popularity"]["hit_rate_at_10"], expected_G)


@pytest.mark.parametrize("model", ["mf", "linear"])
def test_a_run_on_sequences_shows_both_protocols(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_sequences(tmp_path / "data", sample=sample_lines(SEQUENCES))
    given = ["train", model, "data.dataset=lastfm_sequences", "train.list_length=10", "--data", str(data), "--json"]
    small = {"mf": ["train.epochs=2", "model.dim=8"], "linear": ["model.ranks=[8]", "model.neighbours=[8]"]}
    done = CliRunner().invoke(app, [*given, *small[model]], catch_exceptions=False)
    trained = json.loads(done.stdout.splitlines()[-1])
    for name in ("test", "validation"):
        assert {"recall", "ndcg", "hit_rate_at_10", "ndcg_at_10"} <= set(trained[name])
        assert trained[name]["candidates"] == 100
        assert trained["baselines"][name]["chance"]["hit_rate_at_10"] == pytest.approx(0.1)
    told = CliRunner().invoke(app, ["evaluate", f"runs/{model}", "--data", str(data)], catch_exceptions=False)
    assert "HR@10" in told.stdout and "among 99 sampled ones" in told.stdout
    exported = CliRunner().invoke(
        app, ["export", f"runs/{model}", "--out", "bundle", "--data", str(data), "--json"], catch_exceptions=False
    )
    assert json.loads(exported.stdout.splitlines()[-1])["metrics"]["ndcg_at_10"] == trained["test"]["ndcg_at_10"]
