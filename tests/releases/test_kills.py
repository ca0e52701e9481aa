"""A process that is killed with SIGKILL at any step leaves a store in which everything that is listed is whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.killed import WORK, Forker, push_both, push_first
from support.release_bundles import alter, check_clean, check_whole, push_three, write_bundles

from recsys.releases.changes import promoted
from recsys.releases.release import release_names
from recsys.releases.served import read_served
from recsys.releases.store import change_served, list_releases, push_release


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def forker(bundles: Path) -> Iterator[Forker]:
    with Forker(bundles) as forker:
        yield forker


def points(steps: int, count: int, seed: int) -> list[int]:
    """Steps to be killed at: all, or so many by chance."""
    return sorted(random.Random(seed).sample(range(1, steps + 1), min(count, steps)))


def killed_pushes(forker: Forker, bundles: Path, folder: Path, count: int) -> None:
    """Push in a process that is killed at each of these points, then once more."""
    start = folder / "start"
    push_first(start, bundles)
    (first,) = release_names(start)
    shutil.copytree(start, folder / "counted", copy_function=shutil.copy)
    steps = forker.steps_of("push_both", folder / "counted")
    assert steps > 50
    killed, seen = 0, set()
    for step in points(steps, count, seed=1):
        store = folder / f"store_{step}"
        push_first(store, bundles)
        killed += forker.killed_at(step, "push_both", store)
        names = check_whole(store)
        assert names[0] == first and len(names) <= 2
        seen.add(len(names))
        push_both(store, bundles)
        assert [each.release.number for each in list_releases(store)] == [1, 2]
        check_whole(store)
        check_clean(store)
        shutil.rmtree(store)
    assert killed >= 0.8 * min(count, steps) and 1 in seen


def test_a_push_killed_at_20_random_steps_shows_nothing_half_pushed_and_the_next_cleans_up(
    forker: Forker, bundles: Path, tmp_path: Path
) -> None:
    killed_pushes(forker, bundles, tmp_path, 20)


@pytest.mark.prove
def test_a_push_killed_at_every_step_shows_nothing_half_pushed(forker: Forker, bundles: Path, tmp_path: Path) -> None:
    killed_pushes(forker, bundles, tmp_path, 10_000)


def test_a_repair_killed_at_random_steps_is_ended_by_the_next_push(
    forker: Forker, bundles: Path, tmp_path: Path
) -> None:
    def damaged(store: Path) -> Path:
        push_three(store, bundles)
        alter(next((store / "releases").rglob("user.onnx")))
        return store

    steps = forker.steps_of("push_first", damaged(tmp_path / "counted"))
    check_whole(tmp_path / "counted")
    for step in points(steps, 6, seed=2):
        store = damaged(tmp_path / f"store_{step}")
        forker.killed_at(step, "push_first", store)
        for name in ("first", "second", "third"):
            push_release(store, ranking=bundles / name, retrieval=None)
        assert len(check_whole(store)) == 3
        check_clean(store)


@pytest.mark.parametrize("work", ["go_back", "keep_one"])
def test_a_change_or_prune_killed_at_random_steps_leaves_the_old_or_the_new(
    forker: Forker, bundles: Path, tmp_path: Path, work: str
) -> None:
    def three(store: Path) -> list[str]:
        names = push_three(store, bundles)
        change_served(store, lambda served: promoted(served, "tiny", names[2]), why="a test")
        return names

    names = three(tmp_path / "counted")
    steps = forker.steps_of(work, tmp_path / "counted")
    for step in points(steps, 6, seed=3):
        store = tmp_path / f"store_{step}"
        three(store)
        forker.killed_at(step, work, store)
        served = read_served(store)
        assert served is not None and served.models["tiny"].live in names[1:]
        assert set(check_whole(store)) >= set(served.releases())
        push_first(store, bundles)
        WORK[work](store, bundles)
        check_whole(store)
        check_clean(store)


def test_pushes_at_once_have_numbers_of_their_own_and_the_same_bundles_are_one_release(
    forker: Forker, tmp_path: Path
) -> None:
    forker.together("push_both", tmp_path, 3)
    forker.together("push_first", tmp_path, 3)
    assert [each.release.number for each in list_releases(tmp_path)] == [1, 2]
    assert len(check_whole(tmp_path)) == 2
    check_clean(tmp_path)
