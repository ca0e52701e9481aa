"""`recsys ingest` with a folder of `recsys prepare`: rows are read as its log was, unless told otherwise."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from recsys.cli import app
from recsys.errors import DataFileError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import FeatureSet

START_S = 1_700_000_000
EVENTS = 12


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture(params=["stars", "label"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A log with times in seconds, a column that is left out, and what the label is made of; prepared in apps."""
    values = {"name": "apps", "user_id": {"name": "user"}, "item_id": {"name": "app"}, "history": {}}
    (tmp_path / "features.json").write_text(json.dumps(values))
    rows = [f"1,{n},{START_S + n},{n % 5},text" for n in range(EVENTS)]
    (tmp_path / "log.csv").write_text("\n".join([f"user,app,seen,{request.param},review", *rows]) + "\n")
    call(
        "prepare", str(tmp_path / "log.csv"), "--features", str(tmp_path / "features.json"), "--out",
        str(tmp_path / "apps"), "--timestamp", "seen", "--time-unit", "s", "--ignore", "review",
        "--label", f"{request.param}>=3",
    )  # fmt: skip
    return tmp_path / "log.csv"


def stored_times(url: str, features: FeatureSet) -> list[int]:
    async def read() -> list[int]:
        store = RedisFeatureStore.connect(url, features)
        try:
            _, events = await store.history(1, timeout_s=5.0)
        finally:
            await store.close()
        return [int(time) for time in events["timestamp"]]

    return asyncio.run(read())


def test_a_log_that_was_prepared_is_ingested_as_it_was_read(log: Path, redis_url: str) -> None:
    apps = log.parent / "apps"
    letters = ("--dead-letters", str(log.parent / "rejected.jsonl"))
    done = call("ingest", str(log), "--features", str(apps), "--redis-url", redis_url, "--json", *letters)
    counts = json.loads(done.stdout)
    assert (counts["events"], counts["added"], counts["rejected"]) == (EVENTS, EVENTS, 0)
    assert "rows are read with --timestamp seen --time-unit s --ignore review" in done.stderr
    features = FeatureSet.from_json((log.parent / "features.json").read_text())
    assert stored_times(redis_url, features) == [1000 * (START_S + n) for n in range(EVENTS)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--timestamp", "at"), "the time is read from column 'at'"),
        (("--ignore", "other"), "column 'review' is not declared"),
    ],
)
def test_what_is_given_takes_the_place_of_how_it_was_read(
    given: tuple[str, str], says: str, log: Path, redis_url: str
) -> None:
    with pytest.raises(DataFileError, match=says):
        call("ingest", str(log), "--features", str(log.parent / "apps"), "--redis-url", redis_url, *given)
