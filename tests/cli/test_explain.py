"""`recsys explain --user --item`: what is drawn, printed as JSON, and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import Client, NotFound, Unavailable
from recsys.errors import ConfigError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

NOON_MS = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[str]:
    """A server; user 3 saw item 1 three days before noon, and item 6, which they rated 5, an hour before."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(folder)
    with running_server(Settings(bundle=folder, port=0, redis_url=redis_server.url)) as server:
        with Client(server.address) as client:
            times = [NOON_MS - 3 * DAY_MS, NOON_MS - 3_600_000]
            client.append_events(
                user=3, items=[1, 6], timestamps_ms=times, arrivals_ms=times, attributes={"rating": [None, 5]}
            )
        yield server.address


def call(address: str, *more: str) -> Any:
    arguments = ["explain", "--user", "3", "--item", "7", "--time", str(NOON_MS), "--address", address, *more]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def bars(lines: list[str]) -> dict[str, tuple[str, str, float]]:
    """Label -> what is drawn left and right of the axis, and the number."""
    found = {}
    for line in lines:
        if match := re.match(r"(.*?) *([█-▏]*)│([█-▏]*) +([+-]\d\.\d{4})$", line):
            found[match[1].strip()] = (match[2], match[3], float(match[4]))
    return found


def test_bars_are_drawn_to_the_side_of_their_sign_in_80_columns(address: str) -> None:
    lines = call(address, "--feature", "age=-2", "--feature", "hour=7").stdout.splitlines()
    assert lines[0].startswith("user 3, item 7: score 0.") and max(map(len, lines)) <= 80
    drawn = bars(lines)
    assert {"(nothing known)", "history: 2 events", "age: -2", "hour: 7", "item's item_id: 7"} <= set(drawn)
    assert {"3 d 1", "1 h 6, rating 5"} <= set(drawn)
    for left, right, number in drawn.values():
        assert bool(left) == (number < 0) and bool(right) == (number > 0)
    longest = max(drawn.values(), key=lambda bar: abs(bar[2]))
    assert all(len(left) + len(right) <= len(longest[0]) + len(longest[1]) for left, right, _ in drawn.values())
    assert lines.index(next(n for n in lines if "1 h 6" in n)) < lines.index(next(n for n in lines if "3 d 1" in n))


def test_what_is_drawn_adds_up_and_the_remarks_say_what_is_not_drawn(address: str) -> None:
    done = call(address, "--max-events", "1")
    lines = done.stdout.splitlines()
    total = float(re.search(r"add up to ([+-]\d\.\d{4})", done.stdout)[1])  # type: ignore[index]
    parts = list(bars(lines[: lines.index("", 2)]).values())
    assert sum(number for _, _, number in parts) == pytest.approx(total, abs=5e-4)
    assert "contributions are exact, of all orders" in done.stderr
    assert "without a value: age, tags, hour, price" in done.stderr
    assert re.search(r"1 older events, left out together: [+-]\d\.\d{4}", done.stderr)
    assert re.search(r"tiny [0-9a-f]{16}, release \S+, 2 events of history; not degraded", done.stderr)


def test_json_has_everything_and_a_picture_is_written(address: str, tmp_path: Path) -> None:
    found = json.loads(call(address, "--json", "--plot", str(tmp_path / "why.png")).stdout)
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert [part["name"] for part in found["contributions"] if part["missing"]] == ["age", "tags", "hour", "price"]
    total = found["base_logit"] + sum(part["contribution"] for part in found["contributions"])
    assert total == pytest.approx(found["logit"], abs=1e-9)
    assert [(e["item"], e["attributes"]["rating"]) for e in found["events"]] == [(1, -1), (6, 5)]
    assert (found["exact"], found["degraded"], found["time_ms"]) == (True, [], NOON_MS)


def test_a_run_or_a_user_and_an_item_are_explained_and_nothing_in_between(address: str) -> None:
    for arguments, match in (
        ([], "give --user and --item, of a running server, or the folder of a run"),
        (["run", "--user", "1"], "give --user and --item, of a running server, or the folder of a run"),
        (["--user", "1"], "--item is missing"),
        (["--item", "1"], "--user is missing"),
    ):
        with pytest.raises(ConfigError, match=match):
            CliRunner().invoke(app, ["explain", *arguments], catch_exceptions=False)
    with pytest.raises(NotFound, match="release 'x'"):
        call(address, "--release", "x")
    with pytest.raises(Unavailable, match="no server answers at 127.0.0.1:1"):
        CliRunner().invoke(
            app, ["explain", "--user", "1", "--item", "2", "--address", "127.0.0.1:1"], catch_exceptions=False
        )
