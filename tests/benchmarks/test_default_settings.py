"""The record of the trials that chose settings, beside the benchmark that writes it."""

from __future__ import annotations

import importlib
import json
import math
from types import ModuleType

import pytest
from support.paths import ROOT

from recsys.errors import ConfigError
from recsys.recipes import OWN_LOG_RETRIEVAL


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("default_settings")


def test_recorded_trials_are_those_of_the_rounds_that_the_record_names(trials: ModuleType) -> None:
    rows = (ROOT / "benchmarks" / "results" / "default_settings.jsonl").read_text().splitlines()
    for line in map(json.loads, rows):
        model = line["figure"].removeprefix("default_settings.")
        began, base = trials.BEGAN_WITH[model], trials.changed(OWN_LOG_RETRIEVAL[model](), {"data.dataset": "gowalla"})
        base = trials.changed(base, began)
        expected = {str(base)}
        for name in line["on"]["sizes"]["rounds"]:
            for setting in trials.values(name):
                tried = [trials.changed(base, each["setting"]) for each in line["tried"]]
                assert any(trials.changed(each, setting) == each for each in tried), (name, setting)
                expected |= {str(trials.changed(each, setting)) for each in tried}
        assert {str(trials.changed(base, each["setting"])) for each in line["tried"]} <= expected
        assert line["began_with"] == began
        # Whoever trains the model today has what was found.
        found = trials.changed(base, line["chosen"])
        assert found == trials.changed(OWN_LOG_RETRIEVAL[model](), {"data.dataset": "gowalla"})
        ratio = line["unseen"]["after"]["recall"] / line["unseen"]["before"]["recall"]
        assert math.isclose(line["value"], ratio, rel_tol=1e-3)
        assert line["unseen"]["before"]["epoch"] <= base.train.epochs


def test_rounds_are_named_whole_or_by_a_value(trials: ModuleType) -> None:
    assert trials.values("batch") == trials.ROUNDS["batch"]
    assert trials.values("batch:4096") == ({"train.batch_size": "4096"},)
    for wrong in ("bach", "batch:5"):
        with pytest.raises(ConfigError, match="allowed: a round, or round:value of one"):
            trials.values(wrong)
