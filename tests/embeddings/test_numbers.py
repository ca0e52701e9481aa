"""The transforms of numbers that torch computes, all of a side at once, are those of the definition, one by one."""

import itertools

import numpy as np
import pytest
import torch

from recsys.embeddings.numbers import NumberInputs, StackedNumbers, number_names
from recsys.features.feature_set import Categorical, FeatureSet, Numeric, Transform
from recsys.features.number_transform import RAW, NumberTransform, fit_number

RANDOM = np.random.Generator(np.random.PCG64(11))
PRICES = np.exp(RANDOM.normal(8, 1.5, 5_000)).astype(np.float32)
KINDS: tuple[Transform, ...] = ("standardise", "signed_log", "quantile", "none")
FITTED = {kind: fit_number(Numeric(name="x", transform=kind), PRICES) for kind in KINDS}
ODD = np.array([0, 1, -1, 1e-3, 2980, 1e7, -1e7, 3e38, -3e38, np.nan], dtype=np.float32)


@pytest.mark.parametrize("order", list(itertools.permutations(KINDS)))
def test_stacked_transforms_are_those_of_the_definition_in_the_order_of_their_names(
    order: tuple[Transform, ...],
) -> None:
    names = [f"x_{kind}" for kind in order]
    module = StackedNumbers(names, [FITTED[kind] for kind in order])
    given = {name: torch.from_numpy(np.roll(ODD, place)) for place, name in enumerate(names)}
    y_NF = module(torch.stack([given[name] for name in module.names])).numpy()
    assert y_NF.shape == (len(ODD), 4) and y_NF.dtype == np.float32
    for place, (name, kind) in enumerate(zip(names, order, strict=True)):
        np.testing.assert_allclose(y_NF[:, place], FITTED[kind](given[name].numpy()), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kinds", [("none", "none"), ("signed_log",), ("quantile", "quantile"), ("standardise",)])
def test_a_side_of_one_kind_is_transformed_too(kinds: tuple[Transform, ...]) -> None:
    names = [f"x{place}" for place in range(len(kinds))]
    y_NF = StackedNumbers(names, [FITTED[kind] for kind in kinds])(torch.from_numpy(ODD).expand(len(kinds), -1))
    for place, kind in enumerate(kinds):
        np.testing.assert_allclose(y_NF[:, place], FITTED[kind](ODD), rtol=2e-6, atol=2e-6)


def test_numbers_without_a_transform_come_as_they_are_and_missing_ones_as_zero() -> None:
    module = StackedNumbers(["a", "b"], [RAW, RAW])
    a, b = torch.tensor([1.5, float("nan")]), torch.tensor([-3e38, 0.1])
    assert module(torch.stack([a, b])).tolist() == torch.stack([torch.tensor([1.5, 0.0]), b], dim=1).tolist()
    assert module(torch.stack([a, b])[:, :0]).shape == (0, 2), "a process may be left without samples"


def test_each_side_has_its_own_numbers() -> None:
    features = FeatureSet(
        name="f",
        user_id=Categorical(name="u"),
        item_id=Categorical(name="i"),
        user=(Numeric(name="x"), Categorical(name="c")),
        item=(Numeric(name="x"),),
        context=(Numeric(name="hour"),),
    )
    assert number_names(features) == {"user": ["x", "hour"], "item": ["item.x"]}
    doubled = NumberTransform(kind="standardise", scale=2.0)
    inputs = NumberInputs(features, {"item.x": doubled})
    columns = {"x": torch.tensor([1.0]), "hour": torch.tensor([5.0]), "item.x": torch.tensor([3.0, 4.0])}
    assert inputs("user", columns).tolist() == [[1.0, 5.0]] and inputs("item", columns).tolist() == [[6.0], [8.0]]
