"""Lists that no single vector has (LIMIT's construction): docs/understand/one_vector.md."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recsys.bundle import Certificate, Manifest, bundle_writer, open_bundle
from recsys.data.interactions.ids import pair_features
from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph
from recsys.serving.inference.retrieval_session import open_retrieval


def unit(random: np.random.Generator, rows: int, width: int) -> np.ndarray:
    vectors = random.standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pairs_first(users_ND: np.ndarray, items_MD: np.ndarray) -> set[tuple[int, ...]]:
    """The pairs of items that some of the users have first."""
    best = np.sort(np.argpartition(-(users_ND @ items_MD.T), 1, axis=1)[:, :2], axis=1)
    return {tuple(pair) for pair in np.unique(best, axis=0).tolist()}


@pytest.mark.parametrize(("width", "most"), [(2, lambda n: n), (3, lambda n: 3 * n - 6)])
def test_users_of_two_or_three_numbers_have_no_more_pairs_first_than_regions_border(width: int, most: object) -> None:
    random = np.random.default_rng(0)
    assert callable(most)
    counts = []
    for items in (4, 5, 8) * 10:
        users = unit(random, 4_000, width)
        counts.append(len(pairs_first(users, unit(random, items, width))) / most(items))
    assert max(counts) == 1.0, "the bound is reached, and never passed"


def test_products_of_vectors_of_other_lengths_can_have_all_pairs_of_four_items_at_width_two() -> None:
    angles = np.linspace(0.0, 2 * np.pi, 10_000)
    users_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    items_MD = np.array([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87], [0.02, 0.01]])
    assert pairs_first(users_ND, items_MD) == set(combinations(range(4), 2))
    lengths_M1 = np.linalg.norm(items_MD, axis=1, keepdims=True)
    assert len(pairs_first(users_ND, items_MD / lengths_M1)) == 4, "of cosines as many as there are items"


def share_found(items: int, width: int, *, steps: int = 200, rate: float = 0.02) -> float:
    """The share of all pairs that vectors have first which are trained on nothing else."""
    pairs = torch.tensor(list(combinations(range(items), 2)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        users, rows = (nn.Parameter(torch.randn(*shape, width)) for shape in ((len(pairs),), (items,)))
    optimizer = torch.optim.Adam([users, rows], lr=rate)
    for _ in range(steps):
        scores = F.normalize(users, dim=1) @ F.normalize(rows, dim=1).t() / 0.1
        others = scores.scatter(1, pairs, -torch.inf)
        found = float((scores.gather(1, pairs).amin(dim=1) > others.amax(dim=1)).float().mean())
        if found == 1.0:
            break
        loss = F.softplus(others.logsumexp(dim=1, keepdim=True) - scores.gather(1, pairs)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


def test_descent_finds_all_pairs_of_few_items_and_never_of_one_too_many() -> None:
    assert share_found(3, 2) == share_found(4, 3) == 1.0
    assert share_found(4, 2) < 4.5 / 6 and share_found(5, 3) < 9.5 / 10


@pytest.mark.prove
def test_at_width_four_descent_finds_all_pairs_of_nine_items_and_not_of_ten() -> None:
    """The settings of the page's table."""
    assert share_found(9, 4, steps=4_000, rate=0.01) == 1.0
    assert share_found(10, 4, steps=4_000, rate=0.01) < 1.0


def test_two_interests_have_every_pair_first_at_width_two() -> None:
    angles = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    items_MD = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for pair in combinations(range(40), 2):
        scores_M = (items_MD[list(pair)] @ items_MD.T).max(axis=0)  # the items' own vectors are the interests
        assert set(np.argsort(-scores_M)[:2].tolist()) == set(pair)
    by_sums = {
        tuple(sorted(np.argsort(-(items_MD[[a, b]].sum(axis=0) @ items_MD.T))[:2]))
        for a, b in combinations(range(40), 2)
    }
    assert len(by_sums) <= 2 * 40 < 40 * 39 / 2, "a sum of interests is one vector"


def test_a_filter_leaves_every_pair_to_a_user_whose_vector_has_none_of_it(tmp_path: Path) -> None:
    random, items = np.random.default_rng(0), 12
    tables = RetrievalTables(
        user_keys=np.zeros(1, dtype=np.int64),
        users_ND=unit(random, 1, 2),
        item_keys=np.arange(items),
        items_MD=unit(random, items, 2),
        popularity_M=np.zeros(items, dtype=np.float32),
    )
    nothing = Certificate(requests=0, candidates=0, max_abs_logit_difference=0, tolerance=0, compared="none")
    with bundle_writer(tmp_path / "bundle") as writer:
        graph, infos = write_retrieve_graph(tables, writer.folder)
        features = pair_features("shop", "int", "int")
        writer.finish(
            Manifest(
                model="found",
                kind="retrieval",
                feature_set=features,
                graphs={"retrieve": graph},
                tables=infos,
                certificate=nothing,
            )
        )
    session, wanted = open_retrieval(open_bundle(tmp_path / "bundle")), 5
    best = session.retrieve(0, np.zeros(0, dtype=np.int64), items).items
    for pair in combinations(range(items), 2):
        # The filter leaves the pair, and the three of the other items that the user's vector likes most.
        left = [*pair, *[item for item in best.tolist() if item not in pair][: wanted - 2]]
        filtered = np.setdiff1d(np.arange(items), left)
        assert set(session.retrieve(0, filtered, wanted).items.tolist()) == set(left)
        # With one place less, the pair is in the list only if one of the others is liked less than both.
        shorter = set(session.retrieve(0, filtered, wanted - 1).items.tolist())
        last = max(left, key=best.tolist().index)
        assert shorter == set(left) - {last}
