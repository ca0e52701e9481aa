"""A pipeline that is killed with SIGKILL at any step and run again ends with the same release, promoted once."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.killed import Forker
from support.release_bundles import check_clean, check_whole
from support.tiny_pipeline import first_day, nth_day

from recsys.pipeline.state import read_state, state_file
from recsys.pipeline.steps import OUTPUTS
from recsys.releases.served import Served, read_served
from recsys.releases.stored_files import remove_folder


@dataclass(frozen=True)
class Shop:
    """A shop whose first day was run, and its second one too, once, to know what comes of it.

    Attributes:
        folder: where it is; a run depends on it.
        begun, trained: copies of it: after the first day, and when the second day's bundle was there.
        served: what was served after the second.
        steps: of all of the second day, and of those behind ``trained``.
    """

    folder: Path
    begun: Path
    trained: Path
    served: Served
    steps: tuple[int, int]

    def restore(self, copy: Path) -> None:
        """Put a copy in place."""
        remove_folder(self.folder)
        shutil.copytree(copy, self.folder)


@pytest.fixture(scope="module")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    with Forker(tmp_path_factory.mktemp("graphs"), "support.killed_pipeline") as forker:
        yield forker


@pytest.fixture(scope="module")
def shop(forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    top = tmp_path_factory.mktemp("shop")
    folder, begun, trained = top / "shop", top / "begun", top / "trained"
    shutil.copytree(first_day(), folder)
    shutil.copytree(folder, begun)
    forker.steps_of("second_day", folder)
    served = read_served(folder / "releases")
    assert served is not None and served.revision == 2
    # A day that was killed just before the gate: nothing is pushed, and no verdict was made
    shutil.copytree(begun, trained)
    for name in ("samples", "train", "bundle"):
        shutil.copytree(folder / "pipeline" / OUTPUTS / name, trained / "pipeline" / OUTPUTS / name, dirs_exist_ok=True)
    found = Shop(folder, begun, trained, served, (0, 0))
    steps = []
    for copy in (begun, trained):
        found.restore(copy)
        steps.append(forker.steps_of("second_day", folder))
        check_ended(found)
    return Shop(folder, begun, trained, served, (steps[0], steps[1]))


def check_ended(shop: Shop) -> None:
    """The second day ended as it does when nothing kills it."""
    served, store = read_served(shop.folder / "releases"), shop.folder / "releases"
    assert served is not None and (served.models, served.revision) == (shop.served.models, shop.served.revision)
    assert sorted(check_whole(store)) == sorted(shop.served.releases())
    check_clean(store)
    state = read_state(state_file(shop.folder / "pipeline", nth_day(1).name))
    assert state is not None and (state.status, state.release) == ("promoted", shop.served.models["shop"].live)
    assert not state.intent
    left = [path.name for path in (shop.folder / "pipeline" / OUTPUTS).glob("*/*") if "." in path.name]
    assert left == [], "nothing half-written is left"


def kill_and_run_again(
    forker: Forker, shop: Shop, copy: Path, steps: int, points: Callable[[range], list[int]]
) -> None:
    killed, chosen = 0, points(range(1, steps + 1))
    for step in chosen:
        shop.restore(copy)
        killed += forker.killed_at(step, "second_day", shop.folder)
        forker.steps_of("second_day", shop.folder)
        check_ended(shop)
    assert killed >= 0.8 * len(chosen)


def test_a_day_killed_at_three_random_steps_ends_with_the_same_release_promoted_once(
    forker: Forker, shop: Shop
) -> None:
    kill_and_run_again(forker, shop, shop.begun, shop.steps[0], lambda steps: random.Random(1).sample(steps, 3))


def test_a_day_killed_between_push_promotion_and_its_own_file_promotes_once(forker: Forker, shop: Shop) -> None:
    kill_and_run_again(forker, shop, shop.trained, shop.steps[1], lambda steps: random.Random(2).sample(steps, 8))


@pytest.mark.prove
def test_a_day_killed_at_20_random_steps_ends_with_the_same_release_promoted_once(forker: Forker, shop: Shop) -> None:
    kill_and_run_again(forker, shop, shop.begun, shop.steps[0], lambda steps: random.Random(3).sample(steps, 20))


@pytest.mark.prove
@pytest.mark.timeout(2400)
def test_a_day_killed_at_every_eighth_step_behind_its_bundle_promotes_once(forker: Forker, shop: Shop) -> None:
    kill_and_run_again(forker, shop, shop.trained, shop.steps[1], lambda steps: list(steps[::8]))
