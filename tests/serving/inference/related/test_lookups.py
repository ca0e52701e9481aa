"""Lookups by shared users, against sets of users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_retrieval import items_by_user, jaccard, tiny_log, tiny_tables, write_tiny_retrieval

from recsys.bundle import Bundle, open_bundle
from recsys.errors import BundleError
from recsys.export.retrieval.shared_users.add import SharedUsers
from recsys.serving.inference.related import audience
from recsys.serving.inference.related.audience import AudienceIndex, open_audience
from recsys.serving.inference.related.neighbours import UserNeighbours, open_neighbours
from recsys.serving.inference.retrieval_session import open_retrieval

ITEMS = 30
TABLES = tiny_tables(ITEMS)
LOG = tiny_log(TABLES, more_items=3)
NONE = np.empty(0, dtype=np.int64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("shared") / "b"
    write_tiny_retrieval(path, TABLES, log=LOG, shared_users=SharedUsers(neighbours=ITEMS, audience=True))
    return open_bundle(path)


@pytest.fixture(scope="module")
def neighbours(bundle: Bundle) -> UserNeighbours:
    found = open_neighbours(bundle, open_retrieval(bundle))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def index(bundle: Bundle) -> AudienceIndex:
    found = open_audience(bundle, open_retrieval(bundle).guard)
    assert found is not None
    return found


@pytest.mark.parametrize("seeds", [[4], [4, 9, 10**6], [3, 10**9]])
def test_the_score_is_the_mean_jaccard_similarity_to_the_known_seeds(
    seeds: list[int], neighbours: UserNeighbours
) -> None:
    found = neighbours.find(np.array(seeds))
    known = [seed for seed in seeds if any(seed in items for items in items_by_user(LOG).values())]
    every = [jaccard(LOG, seed) for seed in known]
    expected = {
        item: sum(scores.get(item, 0.0) for scores in every) / len(known)
        for item in range(1, ITEMS + 1)
        if item not in seeds and any(item in scores for scores in every)
    }
    assert found.known.tolist() == [seed in known for seed in seeds]
    assert found.items.tolist() == sorted(expected, key=lambda item: (-np.float32(expected[item]), item))
    np.testing.assert_allclose(found.scores, [expected[item] for item in found.items.tolist()], atol=1e-6)


def test_seeds_without_a_user_find_nothing(neighbours: UserNeighbours) -> None:
    found = neighbours.find(np.array([ITEMS, 10**9]))  # no user has the last item
    assert len(found.items) == len(found.scores) == 0 and found.known.tolist() == [False, False]


def users_of(seeds: Sequence[int], at_least: int) -> list[tuple[int, int, int]]:
    """The definition: key, seeds and items of each user with enough of the seeds, in the order of the answer."""
    found = [(user, len(items & set(seeds)), len(items)) for user, items in items_by_user(LOG).items()]
    return sorted((each for each in found if each[1] >= at_least), key=lambda each: (-each[1], each[2], each[0]))


@pytest.mark.parametrize("sparse", [0, 10**9], ids=["counted", "sorted"])
@pytest.mark.parametrize("seeds", [[4], [4, 9, 10**6], [1, 2, 3, 4, 5, 6, 7, 8], [ITEMS, 10**9]])
@pytest.mark.parametrize("at_least", [1, 2])
def test_the_audience_is_the_users_with_most_seeds_then_with_fewest_items(
    seeds: list[int], at_least: int, sparse: int, index: AudienceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audience, "_SPARSE", sparse)
    expected = users_of(seeds, at_least)
    for k in (1, 3, 10, 1_000):
        found = index.find(np.array(seeds), k, at_least=at_least)
        got = list(zip(found.users.tolist(), found.shared.tolist(), found.of.tolist(), strict=True))
        assert got == expected[:k] and found.total == len(expected)
    known = set().union(*items_by_user(LOG).values())
    assert found.known.tolist() == [seed in known for seed in seeds]


def test_a_bundle_without_the_tables_has_neither(tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "b", TABLES)
    bundle = open_bundle(tmp_path / "b")
    session = open_retrieval(bundle)
    assert open_neighbours(bundle, session) is None and open_audience(bundle, session.guard) is None


@pytest.mark.parametrize("table", ["neighbours.keys", "neighbours.rows", "audience.users", "audience.begins"])
def test_tables_that_do_not_fit_each_other_are_refused_by_name(table: str, bundle: Bundle) -> None:
    session, manifest = open_retrieval(bundle), bundle.manifest
    prefix = table.partition(".")[0]

    def opened(tables: dict[str, object]) -> None:
        other = replace(bundle, manifest=replace(manifest, tables=tables))  # type: ignore[arg-type]
        _ = open_neighbours(other, session) if prefix == "neighbours" else open_audience(other, session.guard)

    info = manifest.tables[table]
    with pytest.raises(BundleError, match=f"table '{table}': expected .*; found none: export"):
        opened({name: each for name, each in manifest.tables.items() if name != table})
    with pytest.raises(BundleError, match=f"table '{table}': expected .*; found float64"):
        opened({**manifest.tables, table: replace(info, dtype="float64")})
    with pytest.raises(BundleError, match=f"'{prefix}.keys' and '{prefix}.begins' do not fit"):
        opened({**manifest.tables, table: replace(info, shape=(info.shape[0] - 1,))})
