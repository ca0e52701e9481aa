"""`recsys features`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.command_line import recsys

from recsys.data.sources.raw_log import MOVIELENS_1M
from recsys.features.feature_set import FeatureSet, Numeric


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """MovieLens' FeatureSet, and the same with a new item feature."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(MOVIELENS_1M.to_json())
    new.write_text(replace(MOVIELENS_1M, item=(*MOVIELENS_1M.item, Numeric(name="price"))).to_json())
    return old, new


def test_show_prints_every_feature_and_json_reads_back(tmp_path: Path) -> None:
    shown = recsys("features", "show", "movielens_1m", cwd=tmp_path).stdout
    assert all(f.name in shown for f in MOVIELENS_1M.categoricals())
    assert "33 bytes an event" in shown and "the newest 50 of any age" in shown
    assert (
        FeatureSet.from_json(recsys("features", "show", "movielens_1m", "--json", cwd=tmp_path).stdout) == MOVIELENS_1M
    )


def test_check_accepts_a_feature_set_and_names_what_is_wrong_with_another(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert MOVIELENS_1M.fingerprint() in recsys("features", "check", str(files[0]), cwd=tmp_path).stdout
    files[1].write_text(files[1].read_text().replace("max_events", "max_event"))
    refused = recsys("features", "check", str(files[1]), cwd=tmp_path)
    assert refused.returncode == 2
    assert str(files[1]) in refused.stderr.replace("\n", "") and "did you mean 'max_events'" in refused.stderr
    assert "no such file or folder" in recsys("features", "check", "nothing", cwd=tmp_path).stderr


def test_check_says_that_a_feature_set_without_a_history_takes_no_events(tmp_path: Path) -> None:
    values = json.loads(MOVIELENS_1M.to_json())
    for history, said in ((None, True), ({}, False)):
        (tmp_path / "features.json").write_text(json.dumps({**values, "history": history}))
        shown = recsys("features", "check", "features.json", cwd=tmp_path)
        assert shown.returncode == 0 and ("no history: cannot be prepared or ingested" in shown.stdout) == said


def test_diff_says_what_a_change_needs(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = json.loads(recsys("features", "diff", *map(str, files), "--json", cwd=tmp_path).stdout)
    assert (found["store"], found["model"]) == ("backfill", True)
    assert found["changes"][0]["what"] == "item feature price added at the end"
    assert "recsys materialize" in recsys("features", "diff", *map(str, files), cwd=tmp_path).stdout
    assert recsys("features", "diff", str(files[0]), str(files[0]), cwd=tmp_path).stdout == "no difference\n"
