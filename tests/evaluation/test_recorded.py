"""Records of a test split that bundles hold, from the definitions."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from support.graded_bundles import measured, predictions

from recsys.bundle.evaluation import read_resamples, resamples_bytes
from recsys.errors import BundleError
from recsys.evaluation.evaluate import Metrics, measure, resample, segments
from recsys.evaluation.predictions import UserValues
from recsys.evaluation.recorded import RESAMPLES, lists_digest, record, record_lists, samples_digest
from recsys.metrics import COUNTS, HIGHER_IS_BETTER, LOWER_IS_BETTER, mean_resamples
from recsys.training.retrieval.ranking import RankingMetrics


def test_every_metric_has_a_direction_or_is_a_count() -> None:
    for kind in (Metrics, RankingMetrics):
        types = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            in_sets = [field.name in names for names in (COUNTS, HIGHER_IS_BETTER, LOWER_IS_BETTER)]
            assert in_sets.count(True) == 1, field.name
            assert (field.name in COUNTS) == (types[field.name] is int)


def test_a_record_has_the_metrics_of_all_samples_and_of_every_segment() -> None:
    of = predictions()
    found = record(of)
    assert found.metrics == dataclasses.asdict(measure(of)) and found.evaluation is not None
    expected = {segment.name: segment for segment in segments(of)}
    assert set(found.evaluation.segments) == set(expected) >= {"user new", "user seen in training", "history 10 to 49"}
    for name, segment in found.evaluation.segments.items():
        assert segment.samples == expected[name].samples
        assert dict(segment.metrics) == {n: getattr(expected[name], n) for n in segment.metrics}


def test_standard_errors_are_the_deviations_of_the_resamples() -> None:
    of = predictions()
    found = record(of)
    drawn = resample(of, resamples=RESAMPLES)
    assert found.evaluation is not None
    assert set(found.evaluation.standard_errors) == {"auc", "gauc", "log_loss"}
    for name, error in found.evaluation.standard_errors.items():
        assert error == pytest.approx(np.std(drawn[name].values_R, ddof=1), rel=1e-4)
        np.testing.assert_allclose(found.resamples[""][name], drawn[name].values_R, rtol=1e-6)


def test_few_users_have_no_standard_errors_and_one_label_has_no_auc() -> None:
    of = predictions()
    nine = of.where(of.user_key < 9)
    found = record(nine).evaluation
    assert found is not None and not found.standard_errors
    positive = (of.user_train == 0) & (of.label == 1)
    part = record(of.where((of.user_train > 0) | positive)).evaluation
    assert part is not None
    assert part.segments["user new"].metrics["auc"] is None
    assert set(part.segments["user new"].standard_errors) == {"log_loss"}


def test_the_digest_is_of_samples_and_labels_whatever_their_order_and_the_model() -> None:
    of = predictions()
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(len(of))
    assert samples_digest(replace(of, logit=-of.logit, user_train=of.user_train + 1)) == samples_digest(of)
    assert samples_digest(of.where(shuffled)) == samples_digest(of)  # type: ignore[arg-type]
    for name in ("user_key", "item_key", "time_ms", "label"):
        column = getattr(of, name).copy()
        column[0] = 1 - column[0] if name == "label" else column[0] + 1
        assert samples_digest(replace(of, **{name: column})) != samples_digest(of), name
    assert samples_digest(of.where(np.arange(len(of)) > 0)) != samples_digest(of)


def test_resamples_come_back_from_their_file(tmp_path: Path) -> None:
    found = measured()
    file = tmp_path / "resamples.npz"
    file.write_bytes(resamples_bytes(found.resamples))
    again = read_resamples(file)
    assert set(again) == set(found.resamples) and "" in again
    for segment, of in found.resamples.items():
        assert set(again[segment]) == set(of)
        for name, values in of.items():
            np.testing.assert_array_equal(again[segment][name], values)
    assert read_resamples(tmp_path / "none.npz") == {}
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"resamples\.npz: not readable"):
        read_resamples(file)


def test_lists_are_recorded_by_the_users_training_pairs() -> None:
    recall = np.linspace(0, 1, 40)
    users = UserValues(user_G=np.arange(40), values={"recall": recall})
    pairs = np.array([0] * 5 + [3] * 15 + [12] * 20)
    found = record_lists({"recall": 0.5, "users": 40}, users, data="d" * 16, training_pairs_G=pairs)
    assert found.evaluation is not None and found.evaluation.data == "d" * 16
    by_name = found.evaluation.segments
    assert {name: part.samples for name, part in by_name.items()} == {
        "history 0": 5,
        "history 1 to 9": 15,
        "history 10 to 49": 20,
    }
    assert by_name["history 1 to 9"].metrics["recall"] == pytest.approx(recall[5:20].mean())
    drawn = mean_resamples({"recall": recall[5:20]}, resamples=RESAMPLES)["recall"].values_R
    assert by_name["history 1 to 9"].standard_errors["recall"] == pytest.approx(drawn.std(ddof=1), rel=1e-4)
    assert by_name["history 0"].standard_errors == {}  # fewer than ten users


def test_the_digest_of_lists_is_of_the_task_whatever_its_order() -> None:
    wanted, items = (np.array([1, 2]), np.array([10, 11])), np.array([10, 11, 12])
    left_out = [(np.array([1, 2]), np.array([12, 12]))]
    base = lists_digest(wanted=wanted, items=items, excluded=left_out, list_length=5)
    turned = lists_digest(
        wanted=(wanted[0][::-1], wanted[1][::-1]), items=items[::-1], excluded=left_out, list_length=5
    )
    assert turned == base
    others = [
        lists_digest(wanted=wanted, items=items, excluded=left_out, list_length=10),
        lists_digest(wanted=wanted, items=items[:2], excluded=left_out, list_length=5),
        lists_digest(wanted=wanted, items=items, excluded=[], list_length=5),
        lists_digest(wanted=(wanted[0], wanted[1][::-1]), items=items, excluded=left_out, list_length=5),
    ]
    assert len({base, *others}) == 5
