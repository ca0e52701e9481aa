"""Transforms of numeric features in a run that goes on from an older one: its layers read what they were trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from recsys.arrays import Float32Array
from recsys.features.feature_set import Numeric
from recsys.features.number_transform import NumberTransform, fit_number


def kept_numbers(
    found: Iterable[tuple[str, Numeric, Float32Array]], older: Mapping[str, NumberTransform]
) -> dict[str, NumberTransform]:
    """The older model's transforms, with what the new training samples hold; of features that it has not, new ones.

    A feature is fitted anew, too, if it now declares another transform, or if the older model read nothing but a
    constant of it.

    Args:
        found: input name, feature, and its values in training, [M]
            (:func:`recsys.data.samples.numbers.training_numbers`).
        older: by input name.
    """
    kept: dict[str, NumberTransform] = {}
    for name, feature, values_M in found:
        new = fit_number(feature, values_M)
        before = older.get(name)
        if before is None or before.scale == 0 or feature.transform not in ("auto", before.kind):
            kept[name] = new
            continue
        outside = before.share_outside(values_M)
        facts = {fact: getattr(new, fact) for fact in ("samples", "missing", "least", "median", "most")}
        clipped = f"; {outside:.1%} of these samples are beyond its bounds" if outside else ""
        kept[name] = replace(before, **facts, why=f"as the older model reads it{clipped}")
    return kept
