"""Changes of what is served, from one content to the next."""

from __future__ import annotations

import pytest

from recsys.errors import InvalidInputError, NotFoundError, ReleaseError
from recsys.releases.changes import promoted, rolled_back, with_shadow, with_split
from recsys.releases.served import Served, ServedModel


def served(**model: object) -> Served:
    return Served(models={"din": ServedModel(**model)}, default="din", revision=3)  # type: ignore[arg-type]


def test_the_first_promotion_makes_the_default_model_and_others_are_added_beside_it() -> None:
    first = promoted(None, "din", "din-1")
    assert first.models == {"din": ServedModel(live="din-1")} and first.default == "din"
    both = promoted(first, "sdim", "sdim-1")
    assert both.models == {**first.models, "sdim": ServedModel(live="sdim-1")} and both.default == "din"


def test_a_promotion_keeps_the_live_release_as_previous_and_leaves_split_and_shadow() -> None:
    after = promoted(served(live="a", previous="z", split={"b": 10}, shadow={"c": 5}), "din", "d")
    assert after.models["din"] == ServedModel(live="d", previous="a", split={"b": 10}, shadow={"c": 5})


def test_a_release_that_becomes_live_leaves_split_and_shadow() -> None:
    after = promoted(served(live="a", split={"b": 10, "c": 5}, shadow={"b": 5}), "din", "b")
    assert after.models["din"] == ServedModel(live="b", previous="a", split={"c": 5})


def test_promoting_the_live_release_changes_nothing() -> None:
    before = served(live="a", previous="b")
    assert promoted(before, "din", "a") is before


def test_a_rollback_exchanges_live_and_previous_and_twice_is_as_before() -> None:
    before = served(live="b", previous="a", split={"c": 10})
    after = rolled_back(before, "din")
    assert after.models["din"] == ServedModel(live="a", previous="b", split={"c": 10})
    assert rolled_back(after, "din") == before
    assert rolled_back(served(live="b", previous="a", split={"a": 10}), "din").models["din"].split == {}


def test_a_rollback_to_nothing_and_of_nothing_is_refused() -> None:
    with pytest.raises(ReleaseError, match="nothing was live before a"):
        rolled_back(served(live="a"), "din")
    with pytest.raises(NotFoundError, match="'dim' is not served: did you mean 'din'"):
        rolled_back(served(live="a"), "dim")
    with pytest.raises(ReleaseError, match="nothing is served yet"):
        rolled_back(None, "din")


@pytest.mark.parametrize(("change", "side"), [(with_split, "split"), (with_shadow, "shadow")])
def test_shares_are_set_kept_taken_out_and_ended(change: object, side: str) -> None:
    def after(shares: dict[str, float]) -> object:
        return getattr(change(served(live="a", **{side: {"b": 10}}), "din", shares).models["din"], side)  # type: ignore[operator]

    assert after({"c": 5}) == {"b": 10, "c": 5}
    assert after({"b": 20}) == {"b": 20}
    assert after({"b": 0}) == after({}) == {}
    with pytest.raises(ReleaseError, match=f"{side}: x has no share of din to take away: valid: b"):
        after({"x": 0})
    with pytest.raises(InvalidInputError, match="a is live; allowed: other releases"):
        after({"a": 5})
    with pytest.raises(InvalidInputError, match="101 %; allowed"):
        after({"c": 101})


@pytest.mark.parametrize("parts", range(1, 8))
def test_all_users_may_be_split_into_equal_parts(parts: int) -> None:
    assert len(ServedModel(live="din-0", split={f"din-{n}": 100 / parts for n in range(1, parts + 1)}).split) == parts


def test_a_split_of_more_than_all_users_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="110 % in all"):
        with_split(served(live="a", split={"b": 60}), "din", {"c": 50})
