"""Trainings that the benchmark of new models and old indices keeps."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from support.paths import ROOT

from recsys.errors import ConfigError
from recsys.recipes import OWN_LOG_RETRIEVAL
from recsys.training.settings import override, to_json


@pytest.mark.parametrize("change", ["train.seed=2", "train.epochs=7", "model.dim=16"])
def test_a_kept_training_of_another_recipe_or_seed_is_refused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("old_index")
    config = override(OWN_LOG_RETRIEVAL["mf"](), ["data.dataset=gowalla", "train.seed=1"])
    (tmp_path / "config.json").write_text(to_json(config))
    (tmp_path / "metrics.json").write_text("{}")
    name = change.partition("=")[0]
    with pytest.raises(ConfigError, match=f"holds another training: {name} was .* allowed: another --work"):
        module._trained(override(config, [change]), None, tmp_path)
