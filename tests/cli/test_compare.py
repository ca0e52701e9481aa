"""`recsys release compare`: figures of two releases from servers' statuses, and differences on logged requests."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.command_line import recsys
from support.plan_server import plan_of, plan_server
from support.tiny_bundle import ITEMS, Event, V, reference_scores, write_tiny_bundle

from recsys.cli.releases.charts import comparison_charts
from recsys.client import Client
from recsys.plots import Bars, Chart
from recsys.releases.served import ServedModel
from recsys.releases.status import ServerStatus, status_file, write_status
from recsys.releases.store import push_release
from recsys.serving.process.releases.logged import rank_correlation
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.release_figures import read_release_figures

ROLL = 2
CANDIDATES = list(range(V))
SEEN = [1, 6, 3]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two releases: item i of ``rolled`` has the vector that item i - 2 has in ``tiny``."""
    folder = tmp_path_factory.mktemp("compared")
    for model, items in (("tiny", ITEMS), ("rolled", np.roll(ITEMS, ROLL, axis=0))):
        write_tiny_bundle(folder / model, model=model, items=items)
        push_release(folder / "store", ranking=folder / model, retrieval=None)
    return folder / "store"


def release(store: Path, model: str) -> str:
    (name,) = (path.name for path in (store / "releases").iterdir() if path.name.startswith(model))
    return name


def compare(store: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return recsys("release", "compare", *arguments, "--store", str(store), cwd=cwd)


def write_log(store: Path, folder: Path, redis_url: str) -> Path:
    """A log of what ``tiny`` answered: users without events and with some, with and without top_k."""
    bundle = store / "releases" / release(store, "tiny") / "ranking"
    plan = plan_of(ServedModel(live="tiny"), {"tiny": bundle})
    settings = Settings(
        port=0, redis_url=redis_url, store_timeout_ms=5_000, log_requests=1.0, request_log_dir=folder / "log"
    )
    with plan_server(plan, settings, folder) as server, Client(server.address, timeout_s=20.0) as client:
        times = [1_700_000_000_000 + place for place in range(len(SEEN))]
        client.append_events(user=2, items=SEEN, timestamps_ms=times, arrivals_ms=times)
        client.rank(user=1, candidates=CANDIDATES, features={"age": 1.0})
        client.rank(user=2, candidates=CANDIDATES, features={"age": 1.0}, top_k=3)
    return folder / "log"


def both(events: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all candidates by ``tiny`` and by ``rolled``, by the definition."""

    def scores(shift: int) -> np.ndarray:
        seen = [Event((item - shift) % V) for item in events]
        return reference_scores(events=seen, candidates=[(item - shift) % V for item in CANDIDATES], age=1.0)

    return scores(0), scores(ROLL)


def common(ours: np.ndarray, others: np.ndarray, best: int) -> float:
    return len(set(np.argsort(-ours)[:best].tolist()) & set(np.argsort(-others)[:best].tolist())) / best


def test_logged_requests_are_scored_by_both_and_the_differences_are_as_defined(
    store: Path, tmp_path: Path, redis_url: str
) -> None:
    log = write_log(store, tmp_path, redis_url)
    done = compare(store, "tiny", "rolled", "--requests", str(log), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["a"], facts["b"], facts["live"]) == (release(store, "tiny"), release(store, "rolled"), {})
    found = facts["requests"]
    pairs = [both([]), both(SEEN)]
    signed = np.concatenate([others - ours for ours, others in pairs])
    assert (found["requests"], found["candidates"], found["finite"]) == (2, 2 * V, True)
    assert found["mean_difference"] == pytest.approx(np.abs(signed).mean(), abs=1e-6)
    assert found["mean_signed_difference"] == pytest.approx(signed.mean(), abs=1e-6)
    assert found["max_difference"] == pytest.approx(np.abs(signed).max(), abs=1e-6)
    assert found["overlap"] == pytest.approx((common(*pairs[0], 4) + common(*pairs[1], 3)) / 2)
    ranks = [[np.argsort(np.argsort(scores)) for scores in pair] for pair in pairs]
    assert found["rank_correlation"] == pytest.approx(np.mean([np.corrcoef(*pair)[0, 1] for pair in ranks]))
    assert found["latency_ratio"] > 0
    same = compare(store, "tiny", "tiny", "--requests", str(log), cwd=tmp_path)
    assert same.returncode == 0 and "on 2 logged requests" in same.stdout
    assert "0.00000" in same.stdout and "100.0%" in same.stdout and "1.0000" in same.stdout


def test_figures_are_summed_over_servers_and_an_old_status_is_left_out(store: Path, tmp_path: Path) -> None:
    counts = create_counter_file(tmp_path / "counts", workers=1, methods=[])
    telemetry = Telemetry(counts)
    for us in (1_000, 3_000):
        telemetry.answered(0, us, degraded=us == 3_000, scores=4, score_sum=1.0)
    telemetry.failed(0)
    telemetry.failed(0)
    for _ in range(3):
        telemetry.shadow_offered(1)
    telemetry.shadow_dropped(1)
    for overlap in (0.5, 1.0):
        telemetry.shadow_scored(1, 2_000, candidates=4, difference_sum=0.2, overlap=overlap)
    live, shadow = read_release_figures(counts)[:2]
    tiny, rolled = release(store, "tiny"), release(store, "rolled")
    figures = {tiny: live.as_dict(), rolled: shadow.as_dict()}
    for server in ("one:1", "two:1", "gone:1"):
        write_status(store, ServerStatus(server=server, at="", revision=1, releases=figures))
    os.utime(status_file(store, "gone:1"), (1, 1))
    try:
        done = compare(store, tiny, rolled, "--json", cwd=tmp_path)
        text = compare(store, tiny, rolled, "--png", "drawn.png", cwd=tmp_path)
    finally:
        for server in ("one:1", "two:1", "gone:1"):
            status_file(store, server).unlink()
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    of_tiny, of_rolled = facts["live"][tiny], facts["live"][rolled]
    assert (of_tiny["servers"], of_tiny["calls"], of_tiny["error_share"]) == (2, 8, 0.5)
    assert (of_tiny["degraded_share"], of_tiny["mean_score"], of_tiny["shadow"]) == (0.5, 0.25, None)
    assert 0.7 <= of_tiny["p50_ms"] <= 1.0 < of_tiny["p99_ms"] <= 3.0
    assert {name: of_rolled["shadow"][name] for name in ("offered", "scored", "dropped", "failed")} == {
        "offered": 6, "scored": 4, "dropped": 2, "failed": 0,
    }  # fmt: skip
    assert of_rolled["shadow"]["mean_difference"] == pytest.approx(0.05) and of_rolled["shadow"]["overlap"] == 0.75
    assert (of_rolled["calls"], of_rolled["mean_score"], of_rolled["p99_ms"]) == (0, None, None)
    assert len(facts["passed_over"]) == 1 and "gone:1" in facts["passed_over"][0]
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG") and "drawn: drawn.png" in text.stderr
    assert "4 of 6 requests scored, 2 dropped" in text.stdout and "gone:1" in text.stderr


def test_the_picture_has_what_there_are_figures_for() -> None:
    figures = {"p50_ms": 1.0, "p99_ms": 4.0, "error_share": 0.25, "degraded_share": 0.0}
    idle = {"p50_ms": None, "p99_ms": None, "error_share": 0.0, "degraded_share": 0.0}
    times, failures = comparison_charts({"a": figures, "b": idle}, ("a", "b"), np.zeros(0))
    assert isinstance(times, Bars) and (times.labels, times.values) == (["a p50", "a p99"], [1.0, 4.0])
    assert isinstance(failures, Bars) and failures.values == [25.0, 0.0, 0.0, 0.0]
    (scores,) = comparison_charts({}, ("a", "b"), np.array([0.0, 0.0, 0.0, 1.0]))
    assert isinstance(scores, Chart)
    (line,) = scores.series
    assert (line.y[0], line.y[-1], sum(line.y)) == (75.0, 25.0, 100.0), "shares of the candidates"
    assert comparison_charts({}, ("a", "b"), np.zeros(0)) == []


def test_what_cannot_be_compared_is_an_error_that_says_what_to_do(store: Path, tmp_path: Path) -> None:
    done = compare(store, "tiny", "rolled", cwd=tmp_path)
    assert done.returncode != 0 and "no server has figures" in done.stderr and "--requests" in done.stderr
    (tmp_path / "empty").mkdir()
    done = compare(store, "tiny", "rolled", "--requests", str(tmp_path / "empty"), cwd=tmp_path)
    assert done.returncode == 2 and "no *.parquet here" in done.stderr


def test_equal_values_share_their_mean_rank() -> None:
    ours, others = np.array([1.0, 1.0, 2.0, 3.0], np.float32), np.array([4.0, 5.0, 5.0, 9.0], np.float32)
    ranks = np.array([1.5, 1.5, 3.0, 4.0]), np.array([1.0, 2.5, 2.5, 4.0])
    assert rank_correlation(ours, others) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert rank_correlation(ours, np.ones(4, np.float32)) is None
