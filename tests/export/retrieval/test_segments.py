"""Users of whom a model knows nothing get what is popular with their segment, from a bundle of either kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.planted import ITEMS, USERS, planted

from recsys.bundle import open_bundle
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, joined
from recsys.errors import BundleError, InvalidInputError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.export.retrieval.segments import certify_segments, segments_of
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import MISSING
from recsys.features.history.records import make_events
from recsys.serving.inference.retrieval_session import open_retrieval
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.run import train_any
from recsys.training.settings import override

COUNTRIES, RARE = (700, 49, 10**12), 5
DAY_MS = 86_400_000
FEATURES = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="country"), Numeric(name="age", default=0.0), Categorical(name="tags", max_values=2)),
    history=History(),
)
SMALL = override(RetrievalRunConfig(recipe="small"), ["train.list_length=5"])
MODELS = {
    "mf": override(SMALL, ["model.kind=mf", "model.dim=8", "train.epochs=1"]),
    "linear": override(
        SMALL,
        [
            "model.kind=linear",
            "model.ranks=[4]",
            "model.user_degrees=[0.5]",
            "model.degrees=[0.5]",
            "model.low_pass=[1.0]",
            "model.sharpen=[0.0]",
        ]
        + ["model.neighbours=[9]", "model.half_life_events=[0]", "model.half_life_days=[0]"],
    ),
}


def shop(*, times: bool = True) -> Interactions:
    """Planted communities of three countries, one user of a fourth, and one of none; newer pairs have higher items."""
    data = planted()
    country_N = np.repeat(COUNTRIES, USERS // 3)
    country_N[:2] = RARE, MISSING
    parts = {}
    for name in ("train", "validation"):
        pairs = getattr(data, name)
        parts[name] = dataclasses.replace(pairs, time_ms_E=pairs.item_E * DAY_MS if times else None)
    ids = PairIds(features=FEATURES, user_keys_N=np.arange(USERS), item_keys_M=np.arange(ITEMS)[::-1] * 3)
    columns = {"country": country_N, "age": np.zeros(USERS, np.float32), "tags": np.zeros((USERS, 2), np.int64)}
    return dataclasses.replace(data, **parts, ids=ids, user_columns=columns)


def test_a_value_with_pairs_has_a_list_by_its_own_users_in_which_old_pairs_count_less() -> None:
    data = shop()
    found = segments_of(data, "country", 10.0)
    assert found.keys_V.tolist() == sorted(COUNTRIES) and "3 of 4 values" in found.note and "10 days" in found.note
    pairs = joined(data.train, data.validation)
    weight_E = 0.5 ** ((pairs.item_E.max() - pairs.item_E) / 10.0)
    all_M = np.bincount(pairs.item_E, weights=weight_E, minlength=ITEMS) + 1e-3
    for key, popularity_M in zip(found.keys_V, found.popularity_VM, strict=True):
        own_E = np.isin(pairs.user_E, np.flatnonzero(data.user_columns["country"] == key))
        own_M = np.bincount(pairs.item_E[own_E], weights=weight_E[own_E], minlength=ITEMS)
        np.testing.assert_allclose(popularity_M, own_M + all_M / all_M.sum(), rtol=1e-5)


def test_without_times_or_a_half_life_all_pairs_count_the_same_and_it_is_said() -> None:
    for data, days, said in ((shop(times=False), 10.0, "times are not known"), (shop(), 0.0, "count the same")):
        found = segments_of(data, "country", days)
        assert said in found.note and found.popularity_VM.max() > 5


@pytest.mark.parametrize(
    ("feature", "days", "message"),
    [
        ("county", 1.0, "'county' is no feature of users that is one id: .*country.*allowed: country"),
        ("age", 1.0, "'age' is no feature of users that is one id"),
        ("tags", 1.0, "'tags' is no feature of users that is one id"),
        ("country", -1.0, "half-life is -1 days"),
    ],
)
def test_what_is_no_segment_is_refused(feature: str, days: float, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        segments_of(shop(), feature, days)


def test_a_feature_without_a_value_of_enough_pairs_is_refused() -> None:
    data = shop()
    columns = {**data.user_columns, "country": np.arange(USERS)}
    with pytest.raises(InvalidInputError, match="no value of 'country' has 20 pairs"):
        segments_of(dataclasses.replace(data, user_columns=columns), "country", 1.0)


@pytest.mark.parametrize("kind", MODELS)
def test_a_bundle_gives_unknown_users_what_is_popular_with_their_segment(kind: str, tmp_path: Path) -> None:
    data = shop()
    segments = segments_of(data, "country", 10.0)
    train_any(MODELS[kind], data, tmp_path / "run")
    plain = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "plain", name="finder")
    manifest = export_retrieval_bundle(tmp_path / "run", data, tmp_path / "own", name="finder", segments=segments)
    assert manifest.training["segments"] == segments.note
    assert set(manifest.graphs["retrieve"].inputs) - set(plain.graphs["retrieve"].inputs) == {"country"}
    session, other = (open_retrieval(open_bundle(tmp_path / name)) for name in ("own", "plain"))
    assert session.user_inputs == ("country",) and other.user_inputs == ()
    assert data.ids is not None
    nothing, stranger = np.empty(0, dtype=np.int64), 10**9
    everyone = other.retrieve(stranger, nothing, 7)
    for place, key in enumerate(segments.keys_V.tolist()):
        found = session.retrieve(stranger, nothing, 7, user={"country": np.array([key])})
        best_M = np.argsort(-segments.popularity_VM[place], kind="stable")[:7]
        np.testing.assert_array_equal(found.scores, segments.popularity_VM[place][best_M])
        assert found.items.tolist() == data.ids.item_keys_M[best_M].tolist() and found.segment and not found.known
    for user in (None, {}, {"country": np.array([RARE])}, {"country": np.array([MISSING])}):
        found = session.retrieve(stranger, nothing, 7, user=user)
        assert (found.scores.tolist(), found.segment, found.known) == (everyone.scores.tolist(), False, False)
    events = make_events(FEATURES, item=[3, 6, 9], timestamp_ms=[1, 2, 3])
    known = [each.retrieve(7, nothing, 7, events) for each in (session, other)]
    assert known[0].known and known[0].scores.tolist() == known[1].scores.tolist() and not known[0].segment


def test_a_bundle_whose_lists_are_others_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shop()
    train_any(MODELS["mf"], data, tmp_path / "run")
    segments = segments_of(data, "country", 10.0)
    other = dataclasses.replace(segments, popularity_VM=segments.popularity_VM[::-1])
    monkeypatch.setattr(
        "recsys.export.retrieval.bundle.certify_segments",
        lambda folder, info, _, keys, list_length: certify_segments(folder, info, other, keys, list_length=list_length),
    )
    with pytest.raises(BundleError, match="list for country 49 is not the one that it was given"):
        export_retrieval_bundle(tmp_path / "run", data, tmp_path / "own", name="finder", segments=segments)
    assert not (tmp_path / "own").exists()
