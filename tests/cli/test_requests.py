"""`recsys rank`, `recommend` and `retrieve`: every field of a call, and what an answer lacked, in words and in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import Event, reference_scores, write_tiny_bundle
from support.tiny_retrieval import best_items, tiny_tables, write_tiny_retrieval
from typer.testing import CliRunner

from recsys.cli import app
from recsys.cli.requests.shared import DEGRADED, feature_values
from recsys.client import Client, InvalidArgument, NotFound
from recsys.client.messages.ranker import _DEGRADATIONS
from recsys.errors import ConfigError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

NOON_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ranking and a retrieval bundle."""
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(folder / "ranking")
    write_tiny_retrieval(folder / "finder")
    return folder


@pytest.fixture(scope="module")
def address(bundles: Path, redis_server: EmbeddedRedis) -> Iterator[str]:
    """A server of both. User 3 saw item 5 a second before noon, and item 6 at noon."""
    settings = Settings(
        bundle=bundles / "ranking", retrieval=bundles / "finder", port=0, redis_url=redis_server.url, state_ttl_s=60
    )
    with running_server(settings) as server:
        with Client(server.address) as client:
            times = [NOON_MS - 1000, NOON_MS]
            client.append_events(user=3, items=[5, 6], timestamps_ms=times, arrivals_ms=times)
        yield server.address


def ask(*arguments: str) -> dict[str, Any]:
    """The JSON of a call."""
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_rank_sends_features_and_ranks_as_of_a_time(address: str) -> None:
    call = ("rank", "--user", "3", "--items", "1,2", "--top", "0", "--address", address)
    for time, events in (
        (str(NOON_MS), [Event(5)]),
        ("2023-11-14T22:13:20", [Event(5)]),
        ("2023-11-14T23:13:20+01:00", [Event(5)]),
        ("2023-11-14T22:13:20.001Z", [Event(5), Event(6)]),
        ("2023-11-14", []),
    ):
        for feature, age in ((("--feature", "age=2"), 2.0), (("--feature", "age=0.25"), 0.25), ((), 0.0)):
            asked = (*call, *feature, "--feature", "tags=new,red", "--feature", "hour=7", "--time", time)
            found = ask(*asked)
            assert found["history_events"] == len(events)
            scores = [row["score"] for row in found["ranking"]]
            np.testing.assert_allclose(scores, reference_scores(events=events, candidates=[1, 2], age=age), rtol=1e-5)


def test_the_server_says_what_a_feature_takes(address: str) -> None:
    call = ["rank", "--user", "3", "--items", "1", "--address", address]
    with pytest.raises(InvalidArgument, match="tags"):
        CliRunner().invoke(app, [*call, "--feature", "tags=7"], catch_exceptions=False)
    for well in ('tags="7"', "tags='7',new", "tags=", "hour=7"):
        CliRunner().invoke(app, [*call, "--feature", well], catch_exceptions=False)
    with pytest.raises(InvalidArgument, match="daytime"):
        CliRunner().invoke(app, [*call, "--feature", "daytime=morning"], catch_exceptions=False)
    with pytest.raises(InvalidArgument, match="'hour': 2 values; .* keep a comma together: .* 'hour=\"New York, NY\"'"):
        CliRunner().invoke(app, [*call, "--feature", "hour=New York, NY"], catch_exceptions=False)


def test_retrieve_and_recommend_leave_out_what_is_excluded_as_of_a_time(address: str) -> None:
    call = ("--user", "3", "--address", address, "--exclude", "7, 8", "--exclude", "9")
    for time, seen in ((str(NOON_MS), [5]), (str(NOON_MS + 1), [5, 6])):
        expected, _ = best_items(tiny_tables(), 3, [7, 8, 9, *seen], 4)
        found = ask("retrieve", *call, "--top", "4", "--time", time)
        assert [row["item"] for row in found["items"]] == expected.tolist() and found["history_events"] == len(seen)
        best = ask("recommend", *call, "--top", "4", "--candidates", "4", "--time", time, "--feature", "age=2")
        assert sorted(row["item"] for row in best["items"]) == sorted(expected.tolist())
        scores = {row["item"]: row["score"] for row in best["items"]}
        wanted = reference_scores(events=[Event(i) for i in seen], candidates=list(scores), age=2.0)
        np.testing.assert_allclose(list(scores.values()), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        (("rank", "--items", "1"), "--model", "tiny"),
        (("retrieve",), "--model", "finder"),
        (("recommend",), "--model", "tiny"),
        (("recommend",), "--retrieval-model", "finder"),
    ],
)
def test_a_model_is_asked_for_by_name(address: str, command: tuple[str, ...], option: str, name: str) -> None:
    call = (*command, "--user", "3", "--address", address, "--timings", option)
    found = ask(*call, name)
    assert name in (found["model"], found.get("retrieval_model")) and found["timings_us"]["total"] > 0
    with pytest.raises(NotFound, match=name):
        CliRunner().invoke(app, [*call, f"{name}2"], catch_exceptions=False)


def test_a_whole_answer_says_that_it_is_not_degraded(address: str) -> None:
    for command in (("rank", "--items", "1,2"), ("retrieve",), ("recommend",)):
        call = [*command, "--user", "3", "--address", address]
        shown = CliRunner().invoke(app, call, catch_exceptions=False)
        assert "; not degraded" in " ".join(shown.stderr.split())
        found = ask(*call)
        assert (found["degraded"], found["degraded_because"]) == ([], [])


def test_an_answer_without_the_store_says_in_words_what_it_lacks(bundles: Path, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nothing.sock"
    settings = Settings(bundle=bundles / "ranking", retrieval=bundles / "finder", port=0, redis_url=nowhere)
    with running_server(settings) as server:
        for command in (("rank", "--items", "1,2"), ("retrieve",), ("recommend",)):
            call = [*command, "--user", "3", "--address", server.address]
            shown = CliRunner().invoke(app, call, catch_exceptions=False)
            assert shown.exit_code == 0 and "; degraded" in " ".join(shown.stderr.split())
            assert f"degraded: {DEGRADED['user']}" in shown.stderr
            found = ask(*call)
            assert "user" in found["degraded"] and DEGRADED["user"] in found["degraded_because"]
            if command[0] != "retrieve":
                assert DEGRADED["items"] in found["degraded_because"] and DEGRADED["items"] in shown.stderr


def test_every_kind_of_degradation_has_words() -> None:
    assert set(DEGRADED) == {*_DEGRADATIONS.values(), "counts"}  # of Trending alone: stale


@pytest.mark.parametrize("given", ["daytime", "=morning", '"daytime"', "daytime='morning", 'tags="a"b'])
def test_a_feature_that_is_no_name_and_value_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="--feature"):
        feature_values([given])


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("x=007", 7),
        ("x=-1", -1),
        ("x=1e3", 1000.0),
        ("x=1_000", "1_000"),
        ("x=nan", "nan"),
        ("x=1,2.5", [1, 2.5]),
        ("x=1,b", ["1", "b"]),
        ("x='1',2", ["1", "2"]),
        ("x=a=b", "a=b"),
        ("x=", None),
        ('x=""', ""),
        ("x= a , b ", ["a", "b"]),
    ],
)
def test_a_feature_value_is_a_number_only_if_it_looks_like_one(given: str, value: object) -> None:
    found = feature_values([given])["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("time", ["yesterday", "2023-13-01", "12:00"])
def test_a_time_that_is_none_is_refused(time: str) -> None:
    with pytest.raises(ConfigError, match="--time is"):
        CliRunner().invoke(app, ["retrieve", "--user", "1", "--time", time], catch_exceptions=False)
