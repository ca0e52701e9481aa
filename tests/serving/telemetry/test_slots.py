"""Counts of a release on a real server: ids, values, scores, methods, statuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.metrics_page import Series, page_series, total
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import server_process

from recsys.client import Client, InvalidArgument
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.telemetry.families import SCORE_BOUNDS


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    page: str

    def series(self) -> Series:
        """Its page now."""
        return page_series(self.page)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_tiny_bundle(folder / "bundle")
    settings = {"RECSYS_METRICS_PORT": "0", "RECSYS_STORE_TIMEOUT_MS": "5000", "REDIS_URL": redis_server.url}
    with server_process(folder, RECSYS_BUNDLE=str(folder / "bundle"), **settings) as running:
        with Client(running.address, timeout_s=20) as client:
            client.put_entities(entity="item", ids=[1, 2], features={"price": [1.0, 2.0]})
            client.append_events(user=1, items=[3], timestamps_ms=[1_700_000_000_000])
            for _ in range(8):  # the first one is looked into
                client.rank(user=1, candidates=[1, 2, 3, 4, 5])
            with pytest.raises(InvalidArgument):
                client.rank(user=1, candidates=[1], features={"nothing": 1})
        yield Server(running.address, str(running.facts["metrics"]))


def test_ids_that_the_store_does_not_know_are_counted_by_table(server: Server) -> None:
    series = server.series()
    assert total(series, "recsys_release_ids_total", table="items") == 5
    assert total(series, "recsys_release_unknown_ids_total", table="items") == 3
    assert total(series, "recsys_release_unknown_ids_total", table="users") == 1
    assert total(series, "recsys_release_ids_total", table="histories") == 1
    assert total(series, "recsys_release_unknown_ids_total", table="histories") == 0


def test_scores_are_in_their_buckets(server: Server) -> None:
    series = server.series()
    with Client(server.address, timeout_s=20) as client:
        scores = client.rank(user=1, candidates=[1, 2, 3, 4, 5]).scores
    assert total(series, "recsys_release_scores_bucket", le="+Inf") == 5
    for bound in SCORE_BOUNDS:
        at_most = sum(float(score) <= bound for score in scores)
        shown = total(series, "recsys_release_scores_bucket", le=f"{float(bound)}")
        shown = shown or total(series, "recsys_release_scores_bucket", le=f"{bound:g}")
        assert shown == at_most, bound


def test_calls_of_a_release_have_their_method_and_status(server: Server) -> None:
    series = server.series()
    assert total(series, "recsys_release_requests_total", method="Rank", code="OK") >= 8
    assert total(series, "recsys_release_requests_total", method="Rank", code="INVALID_ARGUMENT") == 1
    assert not any(
        dict(labels).get("method") == "AppendEvents" for name, labels in series if "release_requests" in name
    )


def test_time_of_every_method_is_counted_and_nothing_is_in_flight_afterwards(server: Server) -> None:
    series = server.series()
    for method in ("Rank", "PutEntities", "AppendEvents"):
        ended = total(series, "recsys_requests_total", method=method)
        assert total(series, "recsys_call_seconds_count", method=method) == ended > 0
    assert total(series, "recsys_calls_in_flight") == 0
    assert total(series, "recsys_workers_serving") == total(series, "recsys_workers") == 1


def test_round_trips_to_the_store_are_counted_by_what_they_were_for(server: Server) -> None:
    series = server.series()
    for link in ("rank", "calls"):
        assert total(series, "recsys_store_round_trips_total", link=link, outcome="ok") > 0
        assert total(series, "recsys_store_round_trips_total", link=link, outcome="failed") == 0
        assert total(series, "recsys_store_seconds_count", link=link) == total(
            series, "recsys_store_round_trips_total", link=link
        )
        assert 0 < total(series, "recsys_store_seconds_sum", link=link) < 60


def test_the_number_of_series_is_bounded_whatever_callers_send(server: Server) -> None:
    before = len(server.series())
    with Client(server.address, timeout_s=20) as client:
        for number in range(50):
            client.rank(user=10_000 + number, candidates=[number, number + 1])
            with pytest.raises(InvalidArgument):
                client.rank(user=1, candidates=[1], features={f"feature_{number}": 1})
    assert len(server.series()) == before < 1_600
