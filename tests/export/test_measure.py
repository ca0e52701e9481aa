"""Metrics of a bundle on a test split are those of the model that it was exported from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.exported_models import exported
from support.tiny_retrieval import write_tiny_retrieval

from recsys.data.samples.dataset import Dataset
from recsys.errors import BundleError, InvalidInputError
from recsys.evaluation.recorded import record, samples_digest
from recsys.export.measure import check_dataset, measure_bundle, sampled_users
from recsys.features.feature_set import Categorical, Numeric
from recsys.training.trained import predict_run


@pytest.mark.parametrize("name", ["din", "dcn"])
def test_a_bundle_has_the_metrics_of_its_model(name: str) -> None:
    trained, dataset, folder, _ = exported(name)
    predictions = predict_run(trained, dataset, "test")
    assert predictions is not None
    expected, found = record(predictions), measure_bundle(folder, dataset)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
    assert found.evaluation is not None and found.evaluation.data == samples_digest(predictions)
    assert set(found.evaluation.segments) == set(expected.evaluation.segments)  # type: ignore[union-attr]


def test_the_same_whole_users_are_drawn_for_every_bundle() -> None:
    _, dataset, _, _ = exported("din")
    tested = dataset.split("test")
    np.testing.assert_array_equal(sampled_users(dataset, 0), np.sort(tested))
    some = sampled_users(dataset, 5)
    np.testing.assert_array_equal(some, sampled_users(dataset, 5))
    assert 5 <= len(some) < len(tested)
    users = np.unique(dataset.sample_user[some])
    np.testing.assert_array_equal(some, np.sort(tested[np.isin(dataset.sample_user[tested], users)]))


def test_data_without_what_the_bundle_reads_are_refused() -> None:
    _, dataset, folder, manifest = exported("din")
    features = manifest.feature_set
    for wanted, named in (
        (replace(features, item=(*features.item, Numeric(name="weight"))), "item feature weight"),
        (replace(features, context=(*features.context, Categorical(name="page"))), "context feature page"),
    ):
        with pytest.raises(InvalidInputError, match=named):
            check_dataset(dataset, wanted)
    fewer = replace(features, name="other", item=features.item[:1], history=replace(features.history, recent=2))  # type: ignore[type-var]
    check_dataset(dataset, fewer)
    samples = replace(dataset.samples, splits={**dataset.samples.splits, "test": np.zeros(0, dtype=np.int64)})
    with pytest.raises(InvalidInputError, match="no test split"):
        measure_bundle(folder, replace(dataset, samples=samples))


def test_a_bundle_that_does_not_rank_is_refused(tmp_path: Path) -> None:
    dataset: Dataset = exported("din")[1]
    write_tiny_retrieval(tmp_path / "finder")
    with pytest.raises(BundleError, match="a retrieval bundle; allowed: ranking"):
        measure_bundle(tmp_path / "finder", dataset)
