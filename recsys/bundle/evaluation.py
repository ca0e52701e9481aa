"""A bundle's record of its test split: metrics by segment, how sure they are, and which samples they are of.

Legend: ``R`` resamples of users.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys.arrays import Float32Array
from recsys.errors import BundleError

RESAMPLES = "resamples.npz"
"""A file of the bundle: metrics under resampling of the test split's users; optional."""

Resampled = Mapping[str, Mapping[str, Float32Array]]
"""Segment, "" for all samples -> metric -> its values, [R]. Two models' values of the same samples are of the same
draws, so that their differences are paired."""

_SEPARATOR = "."


@dataclass(frozen=True, kw_only=True)
class SegmentMetrics:
    """Metrics of a part of the test split.

    Attributes:
        samples: how many; of models that rank all items: users.
        data: 16 hex digits of these samples: segments of two bundles with the same are of the same samples.
        metrics: a metric without a value there, as AUC where all labels are equal, is None.
        standard_errors: of those that have one.
    """

    samples: int
    data: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    standard_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Details of the metrics in a manifest.

    Attributes:
        data: 16 hex digits of the samples that the metrics are of: users, items, moments and labels. Metrics of two
            bundles with the same can be compared.
        standard_errors: of the manifest's metrics, users resampled; of those that have one.
        segments: by name; those without samples are left out.
    """

    data: str
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    segments: Mapping[str, SegmentMetrics] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Metrics of a model on some samples, with their details.

    Attributes:
        metrics: of all samples.
        evaluation: None: a bundle of an older version, which has no details.
        resamples: empty where there are none.
    """

    metrics: Mapping[str, float | None]
    evaluation: Evaluation | None
    resamples: Resampled = field(default_factory=dict)


def evaluation_from_dict(values: Mapping[str, Any]) -> Evaluation:
    """The evaluation with these values; KeyError, TypeError or AttributeError if they are malformed."""
    segments = {name: SegmentMetrics(**of) for name, of in values.get("segments", {}).items()}
    return Evaluation(**{**values, "segments": segments})


def resamples_bytes(resamples: Resampled) -> bytes:
    """Content of the file ``resamples.npz``."""
    content = io.BytesIO()
    columns = {
        f"{segment}{_SEPARATOR}{metric}": values.astype(np.float32)
        for segment, of in resamples.items()
        for metric, values in of.items()
    }
    np.savez(content, allow_pickle=False, **columns)
    return content.getvalue()


def read_resamples(file: Path) -> Resampled:
    """Read what :func:`resamples_bytes` made; nothing if there is no such file.

    Raises:
        BundleError: the file is damaged.
    """
    found: dict[str, dict[str, Float32Array]] = {}
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            for key in arrays.files:
                segment, _, metric = key.rpartition(_SEPARATOR)
                found.setdefault(segment, {})[metric] = np.asarray(arrays[key], dtype=np.float32)
    except FileNotFoundError:
        return {}
    except Exception as error:  # a damaged archive raises a dozen kinds, of zipfile, zlib and numpy
        raise BundleError(f"{file}: not readable as resampled metrics: {error}; export the bundle again") from error
    return found
