"""The record that a finished run leaves."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import CONFIG, finished

from recsys.errors import ConfigError, DataFileError
from recsys.training.run import record as record_module
from recsys.training.run.record import begin_record, code_version, machine, peak_memory_mib, read_record, write_record


def test_a_finished_run_says_what_ran_where_how_long_and_how_well() -> None:
    record = read_record(finished().folder)
    assert (record.recipe, record.seed, record.epochs) == ("tiny", CONFIG.train.seed, CONFIG.train.epochs)
    assert record.train_s > 0 and record.samples_per_s is not None and record.samples_per_s > 0
    assert 50 < record.peak_memory_mib <= peak_memory_mib()
    test = finished().result.test
    assert test is not None
    assert record.metrics["test"]["auc"] == test.auc and record.metrics["test"]["mrr"] is None
    assert {"python", "torch", "numpy", "recsys"} <= set(record.versions)
    assert record.machine.cores >= 1 and record.machine.memory_gib > 0 and record.machine.gpu is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.started_at)
    commit, _ = code_version()
    assert record.commit == commit and (commit is None or re.fullmatch("[0-9a-f]{40}", commit))


def test_the_commit_of_an_installed_package_is_the_one_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_COMMIT", "4776abb")
    if code_version()[0] is not None:  # a repository knows better
        assert code_version()[0] != "4776abb"
    monkeypatch.setattr(record_module, "_tracked_version", lambda: None)
    assert begin_record(recipe="r", seed=1).commit == "4776abb"
    monkeypatch.setenv("RECSYS_COMMIT", "")
    assert code_version() == (None, False)
    monkeypatch.setenv("RECSYS_COMMIT", "main")
    with pytest.raises(ConfigError, match="RECSYS_COMMIT is 'main'; allowed: 7 to 64 hex digits, or nothing"):
        begin_record(recipe="r", seed=1)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    start = begin_record(recipe="r", overrides=["a=1"], seed=3, command="recsys train r a=1")
    metrics = {"test": {"auc": np.float64(0.5), "gauc": math.nan, "samples": np.int64(4), "mrr": None}}
    written = write_record(
        tmp_path, start, train_s=1.234567, samples_per_s=math.nan, epochs=2, best_epoch=1, metrics=metrics
    )
    assert read_record(tmp_path) == written
    assert written.metrics == {"test": {"auc": 0.5, "gauc": None, "samples": 4, "mrr": None}}
    assert (written.train_s, written.samples_per_s, written.overrides) == (1.23, None, ("a=1",))
    assert json.loads((tmp_path / "record.json").read_text())["machine"] == vars(machine())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": {}, "overrides": []}'])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="record.json is missing; a finished `recsys train` writes it"):
        read_record(tmp_path)
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(DataFileError, match="record.json: not the record of a run"):
        read_record(tmp_path)
