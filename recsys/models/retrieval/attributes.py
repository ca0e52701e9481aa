"""Rows of items as a linear function of their attributes, so that an item of which nothing was learnt has one.

An id is a one-hot column, several ids are the mean of theirs, a number is one column, transformed as ranking models
read it. It is a table of vectors by attribute and value: the exported graph looks them up and adds them.

Legend: ``A`` items, ``V`` values of an attribute, ``P`` columns of all attributes, ``R`` columns of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, hstack

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.features.columns import Column, missing_column
from recsys.features.feature_set import Categorical, Feature, Numeric
from recsys.features.number_transform import NumberTransform


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """Columns of attributes.

    Attributes:
        features: the attributes that are read, in order.
        keys: of each that is an id, its known values, ascending, int64 [V].
        numbers: of each that is a number, how it is read.
    """

    features: tuple[Feature, ...]
    keys: Mapping[str, Int64Array]
    numbers: Mapping[str, NumberTransform]

    def width(self, feature: Feature) -> int:
        """Columns of an attribute."""
        return len(self.keys[feature.name]) if isinstance(feature, Categorical) else 1

    def design(self, columns: Mapping[str, Column], length: int) -> tuple[csr_matrix, Int64Array]:
        """The items as rows of numbers, float32 [A, P], and how many attributes of each are known, [A].

        Args:
            columns: by attribute, N = A; one that is absent is missing.
            length: A.
        """
        parts, known_A = [csr_matrix((length, 0), dtype=np.float32)], np.zeros(length, dtype=np.int64)
        for feature in self.features:
            column = columns.get(feature.name)
            column = missing_column(feature, length) if column is None else column
            if isinstance(feature, Categorical):
                part = _shares(column.reshape(length, -1), self.keys[feature.name])
                known_A += np.diff(part.indptr) > 0
            else:
                transformed = self.numbers[feature.name](column).astype(np.float32)
                part = csr_matrix(transformed[:, None])
                known_A += is_given(feature, column)
            parts.append(part)
        return csr_matrix(hstack(parts, format="csr", dtype=np.float32)), known_A


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributeRows:
    """A row for every item, by its attributes.

    Attributes:
        encoding: of the attributes.
        weights_PR: what each column adds, float32.
        base_R: what it is added to: the row of an item without any attribute, float32.
    """

    encoding: Encoding
    weights_PR: Float32Array
    base_R: Float32Array

    def rows(self, columns: Mapping[str, Column], length: int) -> tuple[Float32Array, Int64Array]:
        """Rows of items, float32 [A, R], and how many attributes of each are known, [A]; as ``Encoding.design``."""
        design_AP, known_A = self.encoding.design(columns, length)
        rows_AR: Float32Array = design_AP @ self.weights_PR + self.base_R
        return rows_AR, known_A

    def weights_of(self, feature: Feature) -> Float32Array:
        """The rows of :attr:`weights_PR` of an attribute."""
        begin = 0
        for each in self.encoding.features:
            end = begin + self.encoding.width(each)
            if each.name == feature.name:
                break
            begin = end
        return self.weights_PR[begin:end]


def is_given(feature: Numeric, values: Column) -> BoolArray:
    """True where a number was given: a missing one is NaN, or the declared default."""
    given: BoolArray = ~np.isnan(values)
    return given if feature.default is None else given & (values != np.float32(feature.default))


def _shares(keys_AK: Int64Array, known_V: Int64Array) -> csr_matrix:
    """For each item and known value its share of the item's values, [A, V]."""
    present_AK = keys_AK >= 0
    share_A1 = 1.0 / np.maximum(present_AK.sum(axis=1, keepdims=True), 1)
    if not len(known_V):
        return csr_matrix((len(keys_AK), 0), dtype=np.float32)
    place_AK = np.minimum(np.searchsorted(known_V, keys_AK), len(known_V) - 1)
    hit_AK = present_AK & (known_V[place_AK] == keys_AK)
    item_A1 = np.broadcast_to(np.arange(len(keys_AK))[:, None], keys_AK.shape)
    values = np.broadcast_to(share_A1, keys_AK.shape)[hit_AK].astype(np.float32)
    shape = (len(keys_AK), len(known_V))
    return csr_matrix((values, (item_A1[hit_AK], place_AK[hit_AK])), shape=shape)
