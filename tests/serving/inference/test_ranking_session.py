"""A session runs a bundle's graphs, after checking that they are the graphs the bundle promises."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.tiny_bundle import FEATURES, Event, reference_scores, write_tiny_bundle

from recsys.bundle import Bundle, GraphInfo, Manifest, TensorInfo, open_bundle
from recsys.errors import BundleError
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.features.history.records import Events, make_events
from recsys.serving.deadline import Deadline
from recsys.serving.inference.ranking_session import MAX_CHUNK, open_ranking_session


def encoded(events: Events | None, candidates: list[int]) -> EncodedRequest:
    return encode_request(
        FEATURES,
        user_key=1,
        user_columns={},
        request_values={"age": [2.0]},
        events=events,
        item_keys=np.array(candidates),
        item_columns={},
    )


def test_scores_are_the_models_definition(tiny_bundle: Path) -> None:
    session = open_ranking_session(open_bundle(tiny_bundle))
    events = make_events(
        FEATURES, item=[1, 2, 3, 4, 5], timestamp_ms=range(5), attributes={"rating": [5, 4, 3, 2, None]}
    )
    answer = session.score(encoded(events, [1, 9, 3]), deadline=Deadline.after(60))
    newest = [Event(2, 4), Event(3, 3), Event(4, 2), Event(5)]
    expected = reference_scores(events=newest, candidates=[1, 9, 3], age=2.0)
    np.testing.assert_allclose(answer.scores, expected, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-answer.logits.astype(np.float64))), expected, atol=1e-6)
    assert answer.scores.dtype == answer.logits.dtype == np.float32


def test_an_empty_history_is_one_missing_event(tiny_bundle: Path) -> None:
    answer = open_ranking_session(open_bundle(tiny_bundle)).score(encoded(None, [4]), deadline=Deadline.after(60))
    np.testing.assert_allclose(answer.scores, reference_scores(events=[], candidates=[4], age=2.0), atol=1e-6)


def counting_deadline(checks: int) -> tuple[Deadline, list[float]]:
    """A deadline that passes after so many looks at it, and the list of them."""
    looks: list[float] = []

    class Counting(Deadline):
        def remaining_s(self) -> float:
            looks.append(1.0)
            if len(looks) > checks:
                raise TimeoutError("the request's deadline has passed")
            return 1.0

    return Counting(0.0), looks


def test_many_candidates_get_the_scores_they_would_get_in_one_run(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = encoded(None, list(range(100_000)))
    prices = np.arange(100_000, dtype=np.float32) / 1e5
    request.candidates["price"] = prices
    session = open_ranking_session(open_bundle(tiny_bundle))
    deadline, looks = counting_deadline(checks=10**9)
    answer = session.score(request, deadline=deadline)
    assert len(looks) >= 100_000 / MAX_CHUNK
    expected = reference_scores(events=[], candidates=range(100_000), age=2.0, prices=prices.tolist())
    np.testing.assert_allclose(answer.scores, expected, atol=1e-6)
    monkeypatch.setattr("recsys.serving.inference.ranking_session.MAX_CHUNK", 100_000)
    whole = session.score(request, deadline=deadline)
    np.testing.assert_array_equal(answer.logits, whole.logits)
    np.testing.assert_array_equal(answer.scores, whole.scores)


def test_a_deadline_that_passes_stops_the_scoring(tiny_bundle: Path) -> None:
    session = open_ranking_session(open_bundle(tiny_bundle))
    deadline, looks = counting_deadline(checks=3)
    with pytest.raises(TimeoutError, match="the request's deadline has passed"):
        session.score(encoded(None, list(range(100_000))), deadline=deadline)
    assert len(looks) == 4


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"context": (*FEATURES.context, Categorical(name="device"))},
            "graph 'user', input 'device': the graph has nothing, the FeatureSet says int64 [1]",
        ),
        ({"context": ()}, "graph 'user', input 'hour': the graph has int64 [1], the FeatureSet says nothing"),
        (
            {"item": (Categorical(name="price"),)},
            "graph 'rank', input 'price': the graph has float32 ['C'], the FeatureSet says int64 ['C']",
        ),
        (
            {"user": (Numeric(name="age"), Categorical(name="tags", id_type="string", max_values=5))},
            "graph 'user', input 'tags': the graph has int64 [1, 3], the FeatureSet says int64 [1, 5]",
        ),
        (
            {"history": None},
            "graph 'user', input 'history.item_id': the graph has int64 ['S'], the FeatureSet says nothing",
        ),
    ],
)
def test_graphs_made_for_other_features_are_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    features: FeatureSet = dataclasses.replace(FEATURES, **changes)  # type: ignore[arg-type]
    write_tiny_bundle(tmp_path / "b", features=features)
    with pytest.raises(BundleError, match=re.escape(complaint)):
        open_ranking_session(open_bundle(tmp_path / "b"))


def with_graph(manifest: Manifest, name: str, **changes: object) -> Manifest:
    graph: GraphInfo = dataclasses.replace(manifest.graphs[name], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(manifest, graphs={**manifest.graphs, name: graph})


def test_graphs_that_are_not_the_manifests_are_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    wrong = {"user_vector": TensorInfo(dtype="float32", shape=(9,))}
    altered = Bundle(path=tiny_bundle, manifest=with_graph(bundle.manifest, "user", outputs=wrong))
    complaint = "graph 'user', output 'user_vector': the graph has float32 [4], the manifest says float32 [9]"
    with pytest.raises(BundleError, match=re.escape(complaint)):
        open_ranking_session(altered)
    only_user = dataclasses.replace(bundle.manifest, graphs={"user": bundle.manifest.graphs["user"]})
    with pytest.raises(BundleError, match="no graph 'rank'"):
        open_ranking_session(Bundle(path=tiny_bundle, manifest=only_user))


def test_a_file_that_is_not_a_graph_is_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    altered = Bundle(path=tiny_bundle, manifest=with_graph(bundle.manifest, "rank", file="tables/items.bin"))
    with pytest.raises(BundleError, match="graph 'rank' does not load"):
        open_ranking_session(altered)


def _no_table_may_outgrow_memory() -> bool:
    setting = Path("/proc/sys/vm/overcommit_memory")
    return setting.exists() and setting.read_text().strip() == "0"


@pytest.mark.skipif(not _no_table_may_outgrow_memory(), reason="asks Linux, as it is set by default")
def test_a_table_that_linux_does_not_map_is_told_with_the_setting_that_allows_it(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    graph = onnx.load(bundle.graph_path("rank"), load_external_data=False)
    sizes = re.findall(r"^(?:MemTotal|SwapTotal): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    size_bytes = sum(1024 * int(size) for size in sizes) + (1 << 30)
    (table,) = (t for t in graph.graph.initializer if t.external_data)
    table.dims[0] = size_bytes // (4 * table.dims[1])
    for entry in table.external_data:
        if entry.key == "length":
            entry.value = str(4 * table.dims[0] * table.dims[1])
        if entry.key == "location":
            with (bundle.path / entry.value).open("r+b") as file:
                file.truncate(size_bytes)  # sparse: nothing is written
    bundle.graph_path("rank").write_bytes(graph.SerializeToString())
    with pytest.raises(BundleError, match=r"graph 'rank' does not load.*with vm\.overcommit_memory=1"):
        open_ranking_session(bundle)
