"""Numeric features are standardised with statistics of the training samples, whatever their size and shape."""

import dataclasses
import json
from typing import get_args

import numpy as np
import pytest

from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, Numeric, Transform
from recsys.features.number_transform import (
    BOUND,
    BUCKETS,
    RAW,
    NumberTransform,
    fit_number,
    transforms_from_dict,
    transforms_to_dict,
)

RANDOM = np.random.Generator(np.random.PCG64(7))
NORMAL = RANDOM.normal(size=20_000)
X = Numeric(name="x")


def fitted(values: np.ndarray, transform: Transform = "auto") -> NumberTransform:
    return fit_number(Numeric(name="x", transform=transform), values.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (50 + 10 * NORMAL, "standardise"),
        (RANDOM.uniform(-1e6, 1e6, 20_000), "standardise"),
        (1_700_000_000_000 + 86_400_000 * RANDOM.uniform(0, 90, 20_000), "standardise"),
        (RANDOM.integers(0, 2, 20_000), "standardise"),
        (np.round(100 * np.exp(3 + 1.5 * NORMAL)), "signed_log"),
        (1e-6 * np.exp(1.5 * NORMAL), "signed_log"),
        (np.sign(NORMAL) * np.exp(3 * np.abs(NORMAL)), "signed_log"),
        (RANDOM.geometric(0.01, 20_000) ** 2, "signed_log"),
        (np.where(RANDOM.random(20_000) < 0.005, 1e12, 50 + 10 * NORMAL), "quantile"),
    ],
    ids="normal uniform time flag cents tiny two_sided counts sentinels".split(),
)
def test_auto_takes_the_first_transform_that_leaves_no_long_tail(values: np.ndarray, kind: str) -> None:
    transform = fitted(values)
    assert transform.kind == kind
    y = transform(values.astype(np.float32))
    assert abs(y.mean()) < 0.05 and y.std() == pytest.approx(1, abs=0.15)
    assert np.abs(y).max() <= BOUND * 1.001


def test_standardise_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    transform = fitted(np.repeat(values, 1000), "standardise")  # no value is the outermost 0.1 %
    np.testing.assert_allclose(transform(values), (values - 4) / np.sqrt(10), rtol=1e-6)


def test_signed_log_standardises_the_logarithm_of_the_magnitude() -> None:
    transform = fitted(np.repeat([-99.0, 0.0, 1.0, 99.0], 1000), "signed_log")
    assert transform.unit == 1.0, "the smallest magnitude that is not 0"
    logs = np.array([-np.log(100), 0.0, np.log(2), np.log(100)])
    np.testing.assert_allclose(transform([-99, 0, 1, 99]), (logs - logs.mean()) / logs.std(), rtol=1e-6)


def test_quantile_is_the_share_of_samples_below_less_that_above() -> None:
    transform = fitted(np.arange(3200.0) ** 3, "quantile")
    assert len(transform.boundaries) == BUCKETS - 1
    y = transform((np.arange(32) * 100 + 50.0) ** 3)  # the middle of each bucket
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], rtol=1e-6)
    np.testing.assert_allclose(y, -y[::-1], atol=1e-2)
    many_ones = fitted(np.repeat([0.0, 1.0, 5.0], [300, 9400, 300]), "quantile")([0, 1, 5])
    assert many_ones[0] < many_ones[1] < many_ones[2], "a value that most samples have hides no other"


def test_none_leaves_numbers_as_they_are() -> None:
    transform = fitted(np.array([3.0, 1e9, np.nan]), "none")
    assert transform([3.0, -1e30]).tolist() == [3.0, -1e30]
    assert transform(np.nan) == np.float32((3.0 + 1e9) / 2), "the mean stands for a missing one"


@pytest.mark.parametrize("transform", ["auto", "standardise", "signed_log", "quantile"])
def test_a_missing_value_is_read_as_the_centre_and_is_no_part_of_the_statistics(transform: Transform) -> None:
    prices = np.exp(8 + NORMAL)
    with_gaps = np.where(RANDOM.random(len(prices)) < 0.3, np.nan, prices)
    found = fitted(with_gaps, transform)
    assert found(np.nan) == 0.0
    assert found.missing == int(np.isnan(with_gaps).sum()) and found.samples == len(prices)
    assert found.reads_as(fitted(with_gaps[~np.isnan(with_gaps)], transform))


def test_a_declared_default_is_read_as_a_value() -> None:
    column = np.where(RANDOM.random(1000) < 0.5, np.float32(-1.0), np.float32(1.0))
    transform = fit_number(Numeric(name="x", default=-1.0), column)
    assert transform(-1.0) == pytest.approx(-1, abs=0.1) and transform.missing == 0


@pytest.mark.parametrize("transform", get_args(Transform))
@pytest.mark.parametrize("values", [[4.0] * 50, [np.nan] * 50, [0.1] * 999], ids=["constant", "missing", "tenths"])
def test_what_training_tells_nothing_of_is_always_zero_and_said(values: list[float], transform: Transform) -> None:
    found = fitted(np.array(values), transform)
    if transform == "none" and not np.isnan(values).all():
        assert found([7.0]).tolist() == [7.0]
        return
    assert found([4.0, 1e38, -5.0, np.nan]).tolist() == [0.0] * 4
    assert "a model learns nothing of it" in found.why


@pytest.mark.parametrize("transform", ["standardise", "signed_log", "quantile"])
@pytest.mark.parametrize(
    "values", [NORMAL, 1e38 * NORMAL.clip(-3, 3), 1e-38 * NORMAL, 1e-45 * np.arange(9), np.exp(20 * NORMAL)]
)
def test_any_float32_is_within_the_bound_and_finite(values: np.ndarray, transform: Transform) -> None:
    extremes = np.array([0, 1e-45, -1e-45, 1, -1, 3.4e38, -3.4e38], dtype=np.float32)
    y = fitted(values, transform)(extremes)
    assert np.isfinite(y).all() and np.abs(y).max() <= BOUND * 1.01


def test_a_few_absurd_values_do_not_move_the_others() -> None:
    ages = 40 + 12 * NORMAL
    spoilt = ages.copy()
    spoilt[:10] = 1e30
    np.testing.assert_allclose(fitted(spoilt)(ages[10:]), fitted(ages)(ages[10:]), atol=0.02)


def test_a_flag_that_hardly_any_sample_has_is_still_told_apart() -> None:
    flags = np.zeros(10_000)
    flags[:4] = 1
    y = fitted(flags)([0.0, 0.05, 1.0])
    np.testing.assert_allclose(y, [*((np.array([0.0, 0.05]) - flags.mean()) / flags.std()), BOUND], rtol=1e-5)


def test_numbers_that_float32_hardly_tells_apart_are_warned_of() -> None:
    hours = 1_700_000_000_000 + RANDOM.uniform(0, 3_600_000, 1000)
    assert "float32 keeps numbers of this size in steps of 131,072" in fitted(hours).why
    months = 1_700_000_000_000 + RANDOM.uniform(0, 90 * 86_400_000, 1000)
    assert "float32" not in fitted(months).why


def test_the_share_that_is_clipped_is_told() -> None:
    transform = fitted(NORMAL, "standardise")
    assert transform.share_outside(np.array([0, 100, -100, np.nan, 1], dtype=np.float32)) == 0.5
    assert RAW.share_outside(np.array([np.nan], dtype=np.float32)) == 0.0


def test_a_transform_survives_json_to_the_last_bit() -> None:
    transforms = {f"{kind}": fitted(np.exp(NORMAL), kind) for kind in get_args(Transform)}
    text = json.dumps(transforms_to_dict(transforms), allow_nan=False)
    assert transforms_from_dict(json.loads(text)) == transforms
    for transform in transforms.values():
        for name in ("centre", "scale", "low", "high", "fill", "unit"):
            assert float(np.float32(getattr(transform, name))) == getattr(transform, name), "a float32 number"


def test_transforms_are_equal_readings_if_only_what_they_tell_differs() -> None:
    transform = fitted(NORMAL)
    assert transform.reads_as(dataclasses.replace(transform, why="", samples=1))
    assert not transform.reads_as(dataclasses.replace(transform, centre=transform.centre + 1))


def test_a_transform_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidInputError, match="transform is 'log'; allowed: auto, standardise, signed_log, quantile"):
        Numeric(name="x", transform="log")  # type: ignore[arg-type]


def test_feature_sets_that_leave_the_transform_to_training_keep_their_fingerprint() -> None:
    def shop(price: Numeric) -> FeatureSet:
        return FeatureSet(name="s", user_id=Categorical(name="u"), item_id=Categorical(name="i"), item=(price,))

    plain, declared = shop(Numeric(name="p", default=0.0)), shop(Numeric(name="p", default=0.0, transform="none"))
    assert '{"default":0.0,"kind":"numeric","name":"p"}' in plain.to_json(), "as before there were transforms"
    assert '"transform":"none"' in declared.to_json() and declared.fingerprint() != plain.fingerprint()
    for features in (plain, declared, shop(Numeric(name="p"))):
        assert FeatureSet.from_json(features.to_json()) == features
