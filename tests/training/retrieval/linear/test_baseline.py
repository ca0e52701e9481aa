"""The closed form stands beside every other model that ranks all items, where it costs little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.planted import ITEMS, USERS, planted, popularity_metrics

from recsys.training.retrieval import evaluate
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.evaluate import compare_with_baselines
from recsys.training.retrieval.linear.baseline import baseline_seconds, linear_baseline
from recsys.training.retrieval.run import train_any
from recsys.training.settings import override

MF = override(
    RetrievalRunConfig(recipe="small"),
    ["model.kind=mf", "model.init_std=0.1", "model.dim=8", "train.epochs=2", "train.list_length=5"],
)


def test_it_finds_planted_communities_and_stands_in_a_runs_metrics(tmp_path: Path) -> None:
    data = planted()
    values, means = linear_baseline(data, data.test, excluded=(data.train, data.validation), list_length=5)
    assert means["recall"] > 2.5 * popularity_metrics(data).recall and len(values["recall"]) == USERS
    assert means["recall"] == pytest.approx(np.mean(values["recall"])) and 0 < means["coverage"] <= 1
    result = train_any(MF, data, tmp_path / "run")
    for baselines in (result.baselines["test"], compare_with_baselines(tmp_path / "run", data, "test")[1]):
        assert [each.name for each in baselines] == ["popularity", "chance", "linear"]
        assert baselines[2].values["recall"] == means["recall"]


def test_it_is_left_out_where_it_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = planted()
    train_any(MF, data, tmp_path / "run")
    assert baseline_seconds(data, data.test) < 1 < 1e3 * baseline_seconds(data, data.test) * ITEMS
    monkeypatch.setattr(evaluate, "baseline_seconds", lambda *_: 11.0)
    _, baselines = compare_with_baselines(tmp_path / "run", data, "test")
    assert [each.name for each in baselines] == ["popularity", "chance"]
