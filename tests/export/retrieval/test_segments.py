"""Users of whom a model knows nothing get what is popular with their segment, from a bundle of either kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.planted import ITEMS, USERS, planted

from recsys.bundle import open_bundle
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, joined
from recsys.errors import BundleError, InvalidInputError
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.export.retrieval.graph import read_by
from recsys.export.retrieval.segments import Segments, certify_segments, segments_of
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


def best_first(data: Interactions, country: int, weight_E: np.ndarray) -> list[int]:
    """Items by the weights of the country's pairs, then by those of all, then by their place, as the docs say."""
    pairs, of = joined(data.train, data.validation), data.user_columns["country"]
    own, everyone = [0.0] * ITEMS, [0.0] * ITEMS
    for user, item, weight in zip(pairs.user_E.tolist(), pairs.item_E.tolist(), weight_E.tolist(), strict=True):
        everyone[item] += weight
        own[item] += weight * (of[user] == country)
    return sorted(range(ITEMS), key=lambda item: (-own[item], -everyone[item], item))


def check_lists(found: Segments, data: Interactions, weight_E: np.ndarray) -> None:
    for key, popularity_M in zip(found.keys_V.tolist(), found.popularity_VM, strict=True):
        assert np.argsort(-popularity_M, kind="stable").tolist() == best_first(data, key, weight_E), key
        np.testing.assert_array_equal(np.sort(popularity_M)[::-1], (1 / np.arange(1, ITEMS + 1)).astype(np.float32))


def aged(data: Interactions, time_ms_E: np.ndarray) -> Interactions:
    """The data with these times of its training and validation pairs, in their order."""
    pairs = joined(data.train, data.validation)
    parts = {}
    for name in ("train", "validation"):
        own = getattr(data, name)
        time_of = dict(zip(zip(pairs.user_E, pairs.item_E, strict=True), time_ms_E.tolist(), strict=True))
        times = [time_of[pair] for pair in zip(own.user_E, own.item_E, strict=True)]
        parts[name] = dataclasses.replace(own, time_ms_E=np.array(times, dtype=np.int64))
    return dataclasses.replace(data, **parts)


def test_a_value_with_pairs_has_a_list_by_its_own_users_in_which_old_pairs_count_less() -> None:
    data = shop()
    found = segments_of(data, "country", 40.0)
    assert found.keys_V.tolist() == sorted(COUNTRIES) and "3 of 4 values" in found.note and "40 days" in found.note
    time_D = joined(data.train, data.validation).item_E
    check_lists(found, data, 0.5 ** (np.maximum(np.sort(time_D)[int(0.99 * (len(time_D) - 1))] - time_D, 0) / 40.0))


def test_what_is_popular_with_all_never_comes_before_what_the_segment_took() -> None:
    # A country's pairs are 5 half-lives old: those of the others outweigh each of them.
    data = shop()
    pairs = joined(data.train, data.validation)
    own_E = np.isin(pairs.user_E, np.flatnonzero(data.user_columns["country"] == 700))
    data = aged(data, np.where(own_E, 0, 50 * DAY_MS))
    found = segments_of(data, "country", 30.0)
    assert 700 in found.keys_V.tolist()
    check_lists(found, data, np.where(own_E, 0.5 ** (50 / 30), 1.0))
    taken = np.unique(pairs.item_E[own_E])
    place = found.keys_V.tolist().index(700)
    assert set(np.argsort(-found.popularity_VM[place])[: len(taken)].tolist()) == set(taken.tolist())
    # Pairs that hardly count are no evidence: two years later the country has no list, though it has as many pairs.
    data = aged(data, np.where(own_E, 0, 730 * DAY_MS))
    late = segments_of(data, "country", 30.0)
    assert 700 not in late.keys_V.tolist() and "2 of 4 values" in late.note
    assert 700 in segments_of(data, "country", 0.0).keys_V.tolist()


def test_a_time_that_is_wrong_does_not_make_all_others_old() -> None:
    data = shop()
    pairs = joined(data.train, data.validation)
    time_ms_E = pairs.item_E * DAY_MS
    time_ms_E[0] = 47_482 * DAY_MS  # 2100
    wrong = segments_of(aged(data, time_ms_E), "country", 40.0)
    age_D = np.sort(pairs.item_E)[int(0.99 * (len(pairs) - 1))] - time_ms_E / DAY_MS
    assert wrong.keys_V.tolist() == sorted(COUNTRIES)
    check_lists(wrong, data, 0.5 ** (np.maximum(age_D, 0) / 40.0))


def test_without_times_or_a_half_life_all_pairs_count_the_same_and_it_is_said() -> None:
    for data, days, said in ((shop(times=False), 10.0, "times are not known"), (shop(), 0.0, "count the same")):
        found = segments_of(data, "country", days)
        assert said in found.note
        check_lists(found, data, np.ones(len(joined(data.train, data.validation))))


@pytest.mark.parametrize(
    ("feature", "days", "message"),
    [
        ("county", 1.0, "'county' is no feature of users that is one id: .*country.*allowed: country"),
        ("age", 1.0, "'age' is no feature of users that is one id"),
        ("tags", 1.0, "'tags' is no feature of users that is one id"),
        ("country", -1.0, "half-life is -1 days; allowed: 0, for none, or more"),
        ("country", math.nan, "half-life is nan days.* finite"),
        ("country", math.inf, "half-life is inf days.* finite"),
    ],
)
def test_what_is_no_segment_is_refused(feature: str, days: float, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        segments_of(shop(), feature, days)


def test_a_feature_without_a_value_of_enough_pairs_is_refused() -> None:
    data = shop()
    columns = {**data.user_columns, "country": np.arange(USERS)}
    with pytest.raises(InvalidInputError, match="no value of 'country' has 20 pairs"):
        segments_of(dataclasses.replace(data, user_columns=columns), "country", 0.0)
    # One pair a day: half a day's half-life leaves each country fewer than 2.
    a_day = np.arange(len(joined(data.train, data.validation))) * DAY_MS
    with pytest.raises(InvalidInputError, match="no value of 'country' has 20 pairs, old ones counted less"):
        segments_of(aged(data, a_day), "country", 0.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for kind, config in MODELS.items():
        train_any(config, shop(), folder / kind)
    return folder


@pytest.mark.parametrize("kind", MODELS)
def test_a_bundle_gives_unknown_users_what_is_popular_with_their_segment(kind: str, runs: Path, tmp_path: Path) -> None:
    data = shop()
    segments = segments_of(data, "country", 40.0)
    plain = export_retrieval_bundle(runs / kind, data, tmp_path / "plain", name="finder")
    manifest = export_retrieval_bundle(runs / kind, data, tmp_path / "own", name="finder", segments=segments)
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


@pytest.mark.parametrize("kind", MODELS)
def test_segments_leave_no_constant_that_the_graph_does_not_read(
    kind: str, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = shop()
    export_retrieval_bundle(
        runs / kind, data, tmp_path / "own", name="finder", segments=segments_of(data, "country", 40.0)
    )
    graph = onnx.load(tmp_path / "own" / "retrieve.onnx", load_external_data=False).graph
    assert {each.name for each in graph.initializer} <= read_by(graph.node)
    assert "onnxruntime" not in "".join(capfd.readouterr())


def turned(table_VR: np.ndarray) -> np.ndarray:
    """Everyone's list, the last item first."""
    return np.concatenate([np.append(table_VR[0, :1], table_VR[0, :0:-1])[None], table_VR[1:]])


def swapped(table_VR: np.ndarray) -> np.ndarray:
    """The lists of two countries in each other's place."""
    return table_VR[[0, 2, 1, *range(3, len(table_VR))]]


def raised(table_VR: np.ndarray) -> np.ndarray:
    """The last item of a country's list is its first."""
    table_VR[1, table_VR[1].argmin() or 1] = 2.0
    return table_VR


def shortened(table_VR: np.ndarray) -> np.ndarray:
    """Scores of a country that are no numbers: items that are never found."""
    table_VR[1, 1:] = np.nan
    return table_VR


@pytest.mark.parametrize(
    ("change", "key"),
    [(turned, MISSING), (swapped, 49), (raised, 49), (shortened, 49)],
    ids=lambda each: str(each)[:12],
)
def test_a_bundle_whose_lists_are_others_is_not_written(
    change: Callable[[np.ndarray], np.ndarray], key: int, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shop()

    def changed(folder: Path, *args: Any, **options: Any) -> None:
        file = folder / "tables" / "segment.popularity.bin"
        change(np.fromfile(file, dtype="<f4").reshape(len(COUNTRIES) + 1, -1).copy()).astype("<f4").tofile(file)
        certify_segments(folder, *args, **options)

    monkeypatch.setattr("recsys.export.retrieval.segments.certify_segments", changed)
    with pytest.raises(BundleError, match=f"list for country {key} is not the one that it was given"):
        export_retrieval_bundle(
            runs / "mf", data, tmp_path / "own", name="finder", segments=segments_of(data, "country", 40.0)
        )
    assert not (tmp_path / "own").exists()
