"""The replay before a switch: a release that is worse on recorded requests never answers, and one that is not does."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.plan_server import plan_server
from support.tiny_bundle import FEATURES, ITEMS, reference_scores, write_tiny_bundle
from support.tiny_retrieval import write_tiny_retrieval

from recsys.client import Client
from recsys.errors import ReleaseError
from recsys.features.feature_set import Categorical, Numeric
from recsys.features.history.records import make_events
from recsys.releases.served import ServedModel
from recsys.serving.filters.selection import IndexFilter
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recorder import RecordedQuery, RecordedRequest
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.process.releases import switch
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.releases.replay import replay as replay_module
from recsys.serving.process.releases.replay.cases import Case, encode_recorded, retrieval_cases
from recsys.serving.process.releases.replay.replay import ReplayReport, touch_pages
from recsys.serving.process.server import RunningServer
from recsys.serving.settings import Settings

REQUESTS = 20
CANDIDATES = [5, 1, 3, 6]
WORK = 6


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlannedRelease]:
    """Releases by name: all are the tiny model, with something different."""
    folder = tmp_path_factory.mktemp("releases")
    broken = ITEMS.copy()
    broken[5] = np.nan
    made: dict[str, Mapping[str, Any]] = {
        "live": {},
        "same": {},
        "close": {"items": 1.01 * ITEMS},
        "nan": {"items": broken},
        "drifted": {"items": 20 * ITEMS},
        "working": {"work": WORK},
        "working_too": {"work": WORK},
        "slow": {"work": 4 * WORK},
        "forgetful": {"features": dataclasses.replace(FEATURES, context=()), "leave_out": ["hour"]},
    }
    for name, more in made.items():
        write_tiny_bundle(folder / name, **more)
    planned = {
        name: PlannedRelease(name=name, ranking=folder / name, retrieval=None, slot=slot)
        for slot, name in enumerate(made)
    }
    for name in ("finder", "lost"):
        manifest = write_tiny_retrieval(folder / name)
        planned[name] = PlannedRelease(name=name, ranking=folder / "live", retrieval=folder / name)
    users = manifest.tables["user_id.rows"]
    np.memmap(folder / "lost" / users.file, dtype="<f4", mode="r+", shape=users.shape)[2] = np.nan
    return planned


def plan_of(*releases: PlannedRelease, number: int = 2, **more: Any) -> Plan:
    """A plan whose live release is the first, for the name ``feed``."""
    served = ServedModel(live=releases[0].name, **more)
    return Plan(
        number=number,
        models={"feed": served},
        default="feed",
        releases={release.name: release for release in releases},
    )


@contextmanager
def served(live: PlannedRelease, redis_url: str, folder: Path, **more: Any) -> Iterator[RunningServer]:
    settings = Settings(releases=folder, port=0, redis_url=redis_url, store_timeout_ms=5_000, **more)
    with plan_server(plan_of(live, number=1), settings, folder) as running:
        yield running.server


def ask(server: RunningServer, *, requests: int = REQUESTS) -> str:
    """Rank so often, the recorder's food; the release that answered last."""
    with Client(server.address) as client:
        for number in range(requests):
            answer = client.rank(user=number, candidates=CANDIDATES, features={"age": 1.0, "hour": 3}, timeout_s=20.0)
    return answer.release


@pytest.mark.parametrize(
    ("live", "new", "why"),
    [
        ("live", "nan", r"its ranking model, request \d+ of 20: .* no finite number for 1 of 4"),
        ("live", "drifted", r"'live' by 0\.\d+ in the mean of 20 .* allowed: 0.2 .RECSYS_RELEASE_MAX_DRIFT"),
        ("working", "slow", r"takes [1-9]\.\d+ times .* 'working' .* allowed: 1.5 .RECSYS_RELEASE_MAX_SLOWDOWN"),
        ("live", "forgetful", r"request \d+ of 20: unknown feature 'hour'"),
    ],
    ids=["no numbers", "other scores", "four times as slow", "takes less than callers send"],
)
def test_a_release_that_is_worse_is_refused_and_the_live_one_serves_on(
    bundles: dict[str, PlannedRelease],
    redis_url: str,
    tmp_path: Path,
    live: str,
    new: str,
    why: str,
) -> None:
    with served(bundles[live], redis_url, tmp_path) as server:
        ask(server)
        with pytest.raises(ReleaseError, match=f"release {new!r} is refused: .*{why}"):
            server.switch.prepare(plan_of(bundles[new], bundles[live]))
        assert ask(server, requests=1) == live


def test_the_report_says_by_how_much_the_scores_differ(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path
) -> None:
    before = reference_scores(events=[], candidates=CANDIDATES, age=1.0)
    after = reference_scores(events=[], candidates=CANDIDATES, age=1.01)
    with served(bundles["live"], redis_url, tmp_path) as server:
        ask(server)
        (report,) = server.switch.prepare(plan_of(bundles["close"], bundles["live"]))
        server.switch.commit(2).join(20)
        assert ask(server, requests=1) == "close"
    found = ranking_of(report)
    assert (report.release, report.live, report.route, report.notes) == ("close", "live", "feed", ())
    assert (found.requests, found.compared) == (REQUESTS, REQUESTS)
    assert found.drift_mean == pytest.approx(np.abs(after - before).mean(), abs=1e-6)
    assert found.drift_max == pytest.approx(np.abs(after - before).max(), abs=1e-6)
    assert found.slowdown is not None and found.slowdown < 1.5
    assert "release 'close' for 'feed' beside 'live'" in report.text()


def test_an_equal_release_that_works_hard_is_taken(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path
) -> None:
    with served(bundles["working"], redis_url, tmp_path) as server:
        ask(server)
        (report,) = server.switch.prepare(plan_of(bundles["working_too"], bundles["working"]))
    assert ranking_of(report).slowdown == pytest.approx(1.0, abs=0.4)


def test_without_recorded_requests_the_scores_of_samples_are_looked_at_and_nothing_is_compared(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path
) -> None:
    with served(bundles["live"], redis_url, tmp_path) as server:
        (report,) = server.switch.prepare(plan_of(bundles["drifted"], bundles["live"]))
        with pytest.raises(ReleaseError, match="'nan' is refused"):
            server.switch.prepare(plan_of(bundles["nan"], bundles["live"]))
    found = ranking_of(report)
    assert found.requests > 0 and found.compared == 0 and found.drift_mean is None and found.slowdown is None
    assert "nothing was compared, as no requests were recorded" in report.text()


def test_a_live_release_without_numbers_does_not_keep_a_good_one_out(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path
) -> None:
    live, nan = bundles["live"], bundles["nan"]
    with served(live, redis_url, tmp_path) as server:
        ask(server)
        for number, plan in ((2, plan_of(live, nan, previous="nan")), (3, plan_of(nan, live, number=3))):
            server.switch.prepare(plan)
            server.switch.commit(number).join(20)
        (report,) = server.switch.prepare(plan_of(bundles["close"], nan, number=4))
        assert f"the live release itself failed on {REQUESTS} of {REQUESTS} requests" in report.text()
        another = dataclasses.replace(nan, name="nan_too")
        with pytest.raises(ReleaseError, match="'nan_too' is refused: .* live release fails, too, is no excuse"):
            server.switch.prepare(plan_of(another, nan, number=5))


def test_only_what_never_answered_is_replayed(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path
) -> None:
    live, close, drifted = bundles["live"], bundles["close"], bundles["drifted"]
    with served(live, redis_url, tmp_path) as server:
        ask(server)
        kept = plan_of(live, drifted, number=2, previous="drifted")
        assert server.switch.prepare(kept) == (), "kept for a rollback"
        server.switch.commit(2).join(20)
        assert server.switch.prepare(plan_of(drifted, live, number=3)) == (), "the rollback"
        shadowed = plan_of(live, close, number=4, shadow={"close": 10.0})
        assert server.switch.prepare(shadowed) == (), "a shadow answers nobody"
        server.switch.commit(4).join(20)
        (report,) = server.switch.prepare(plan_of(close, live, number=5))
        assert (report.release, report.live) == ("close", "live")
        (report,) = server.switch.prepare(plan_of(live, close, number=6, split={"close": 1.0}))
        assert report.release == "close"


def test_a_replay_that_is_given_up_ends_at_once(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "_SHARE", 1e-6)  # the first pause would last for minutes
    errors: list[Exception] = []

    def prepare() -> None:
        try:
            server.switch.prepare(plan_of(bundles["close"], bundles["live"]))
        except ReleaseError as error:
            errors.append(error)

    with served(bundles["live"], redis_url, tmp_path) as server:
        ask(server)
        thread = threading.Thread(target=prepare)
        thread.start()
        time.sleep(1.0)
        assert thread.is_alive()
        began_s = time.monotonic()
        server.switch.abort()
        took_s = time.monotonic() - began_s
        thread.join(20)
        assert took_s < 0.5
        assert "the replay of release 'close' was given up" in str(errors[0])
        assert ask(server, requests=1) == "live"
        with pytest.raises(ReleaseError, match="plan 2 is not prepared"):
            server.switch.commit(2)


def test_where_two_tables_have_no_room_all_recorded_requests_are_put_to_the_new_release_before_it_answers(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int]] = []
    monkeypatch.setattr(
        switch, "touch_pages", lambda ranker, requests, *_, **more: given.append((ranker.release, len(requests)))
    )
    for room in (True, False):
        monkeypatch.setattr("recsys.serving.inference.table_guard.two_fit", lambda size_bytes, room=room: room)
        with served(bundles["live"], redis_url, tmp_path, release_replay=2) as server:
            ask(server)
            server.switch.prepare(plan_of(bundles["close"], bundles["live"]))
        assert given == ([] if room else [("close", REQUESTS)])


def test_a_request_that_fails_is_left_out_of_touching_pages_and_a_stop_ends_it(
    bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.serving.inference.table_guard.two_fit", lambda size_bytes: False)
    given: list[tuple[Ranker, Sequence[RecordedRequest]]] = []
    monkeypatch.setattr(switch, "touch_pages", lambda ranker, requests, *_, **more: given.append((ranker, requests)))
    stopped = threading.Event()
    stopped.set()
    with served(bundles["live"], redis_url, tmp_path) as server:
        ask(server)
        server.switch.prepare(plan_of(bundles["close"], bundles["live"]))
        ((ranker, good),) = given
        bad = dataclasses.replace(good[0], values={"no such feature": [1.0]})
        touch_pages(ranker, [bad, *good], Settings(), stop=threading.Event(), quiet=lambda: True)
        with pytest.raises(ReleaseError, match="was given up"):
            touch_pages(ranker, good, Settings(), stop=stopped, quiet=lambda: True)


def test_searches_are_replayed_too(bundles: dict[str, PlannedRelease], redis_url: str, tmp_path: Path) -> None:
    finder = bundles["finder"]
    again = dataclasses.replace(finder, name="again")
    with served(finder, redis_url, tmp_path) as server:
        with Client(server.address) as client:
            for user in range(1, 6):
                assert len(client.retrieve(user=user, top_k=3).items) == 3
        (report,) = server.switch.prepare(plan_of(again, finder))
        assert report.retrieval is not None and report.ranking is not None
        assert (report.retrieval.requests, report.retrieval.compared) == (5, 5)
        assert report.retrieval.slowdown == pytest.approx(1.0, abs=0.4)
        with pytest.raises(ReleaseError, match="'lost' is refused: its retrieval model, .* no finite number for 3"):
            server.switch.prepare(plan_of(bundles["lost"], finder))


def recommender(added: AddedItems | None = None, **index: Any) -> Any:
    """A stand-in whose searches are noted in ``searches``."""
    searches: list[tuple[Any, ...]] = []

    def retrieve(*args: Any, allowed: Any = None) -> SimpleNamespace:
        searches.append(args)
        return SimpleNamespace(items=[1], scores=np.ones(1, dtype=np.float32))

    index = {"history_fields": (), "user_inputs": (), "retrieve": retrieve} | index
    items = IndexFilter(None, np.empty(0, dtype=np.int64))
    return SimpleNamespace(index=SimpleNamespace(**index), added=lambda: added, items=items, searches=searches)


def test_what_searches_were_not_recorded_for_is_noted_and_items_that_came_after_training_take_part() -> None:
    query = RecordedQuery(user_key=7, taken=np.array([3]), top_k=5)
    added = AddedItems(np.array([9]), np.ones((1, 2), dtype=np.float32))
    knower = recommender(added, history_fields=("item_id",), user_inputs=("country",))

    def cases(live: Any) -> tuple[list[Case], list[str]]:
        notes: list[str] = []
        return retrieval_cases(None, knower, live, [query], notes), notes  # type: ignore[arg-type]

    (case,), (without_events, missing) = cases(recommender())
    assert "recorded without the users' events" in without_events and missing.endswith("missing: country")
    case.new()()
    assert knower.searches == [(7, query.taken, 5, None, added, None)]
    assert cases(knower)[1] == []


def test_a_request_is_encoded_for_a_feature_set_that_has_more(bundles: dict[str, PlannedRelease]) -> None:
    history = FEATURES.history
    assert history is not None
    more = dataclasses.replace(
        FEATURES,
        item=(*FEATURES.item, Numeric(name="age_days", default=7.0)),
        history=dataclasses.replace(history, attributes=(*history.attributes, Categorical(name="device"))),
    )
    request = RecordedRequest(
        user_key=1,
        user_columns={},
        values={"age": [3.0]},
        events=make_events(FEATURES, item=[5, 6], timestamp_ms=[1, 2], attributes={"rating": [4, 2]}),
        item_keys=np.array([5, 1]),
        item_columns={"price": np.array([1.0, 2.0], dtype=np.float32)},
    )
    encoded = encode_recorded(more, request)
    assert encoded.user["age"].tolist() == [3.0]
    assert encoded.user["history.rating"].tolist() == [4, 2]
    assert encoded.user["history.device"].tolist() == [-1, -1]
    assert encoded.candidates["price"].tolist() == [1.0, 2.0]
    assert encoded.candidates["age_days"].tolist() == [7.0, 7.0]


def ranking_of(report: ReplayReport) -> replay_module.Comparison:
    assert report.ranking is not None
    return report.ranking
