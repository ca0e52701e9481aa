"""Transforms of numeric features: what each kind computes, and its statistics from training samples.

A price in cents, a time, a counter: left as they are, they make a network's first layer hundreds or millions of times
too large. So a model reads a number x as

    y = (clip(g(x), low, high) - centre) * scale,    and a missing one (NaN) as ``fill``

where g is x itself (``standardise``), sign(x) log(1 + |x| / unit) (``signed_log``), or how many quantiles of the
training samples are below x less those above it (``quantile``). ``centre`` and 1 / ``scale`` are the mean and the
standard deviation of g, ``low`` and ``high`` are ``BOUND`` of these from the centre: a value from far outside the
training samples counts as the bound. Of ``none``, y is x.

Statistics are computed in float64 and kept as the float32 numbers that torch and the graphs compute with
(``embeddings/numbers.py``). They leave out the outermost 0.1 % at either end: one price of 10^12 among ordinary ones
would make all others equal.

Legend: ``M`` training samples, ``Q`` quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recsys.arrays import Float32Array
from recsys.features.feature_set import Numeric

Kind = Literal["standardise", "signed_log", "quantile", "none"]

BUCKETS = 32
BOUND = 6.0
"""Standard deviations from the centre at which values are clipped."""

TAIL = 5.0
"""Standard deviations in which ``auto`` wants ``CORE`` of the training samples; normal ones lie within 3.3."""
CORE = 0.999

_LARGEST = float(np.finfo(np.float32).max)
_WIDEST = 1e38
"""Bounds of a clipped value: its distance from the centre is a float32 still."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NumberTransform:
    """A numeric feature's transform, fitted to training samples; the module's docstring has the formula.

    Attributes:
        kind: g.
        unit: of ``signed_log``: the size below which magnitudes count as about equal.
        boundaries: of ``quantile``: ascending, [Q]; a value that many samples have is several of them.
        centre, scale, low, high, fill: float32 numbers; a constant feature has scale 0.
        samples, missing: training samples looked at, and how many of them had no value.
        least, median, most: of their values.
        why: the reason for the kind, or a warning, in words; empty: it was declared.
    """

    kind: Kind
    unit: float = 1.0
    boundaries: tuple[float, ...] = ()
    centre: float = 0.0
    scale: float = 1.0
    low: float = -_LARGEST
    high: float = _LARGEST
    fill: float = 0.0
    samples: int = 0
    missing: int = 0
    least: float = 0.0
    median: float = 0.0
    most: float = 0.0
    why: str = ""

    def __call__(self, values: npt.ArrayLike) -> Float64Array:
        """The transformed values in float64: the reference of what torch and the graphs compute in float32."""
        x = np.asarray(values, dtype=np.float64)
        y = (np.clip(_bent(self.kind, x, self.unit, self.boundaries), self.low, self.high) - self.centre) * self.scale
        return np.where(np.isnan(x), self.fill, y)

    def reads_as(self, other: NumberTransform) -> bool:
        """True if both give every number the same value."""
        about = {fact: getattr(other, fact) for fact in ("samples", "missing", "least", "median", "most", "why")}
        return replace(self, **about) == other

    def share_outside(self, values_M: Float32Array) -> float:
        """The share of present values that are clipped."""
        x = values_M[~np.isnan(values_M)].astype(np.float64)
        g = _bent(self.kind, x, self.unit, self.boundaries)
        return float(((g < self.low) | (g > self.high)).mean()) if len(x) else 0.0


RAW = NumberTransform(kind="none")
"""As the number comes; a missing one is 0. Models from before there were transforms read numbers so."""


def fit_number(feature: Numeric, values_M: Float32Array) -> NumberTransform:
    """Fit a feature's transform, and choose it where ``auto`` is declared.

    ``auto`` takes the first of ``standardise``, ``signed_log`` and ``quantile`` after which ``CORE`` of the samples lie
    within ``TAIL`` standard deviations, or else the one that comes nearest to that.

    Args:
        feature: what is declared.
        values_M: one value for each training sample, NaN where it is missing; float32.

    >>> prices = np.exp(np.random.default_rng(0).normal(8, 1.5, 10_000)).astype(np.float32)
    >>> fit_number(Numeric(name="price"), prices).kind
    'signed_log'
    >>> fit_number(Numeric(name="age"), np.linspace(20, 60, 1000, dtype=np.float32)).kind
    'standardise'
    """
    present = values_M[~np.isnan(values_M)].astype(np.float64)
    facts: dict[str, Any] = {"samples": len(values_M), "missing": len(values_M) - len(present)}
    if not len(present):
        return _constant(0.0, "no training sample has a value: a model learns nothing of it", facts)
    for name, value in (("least", present.min()), ("median", np.median(present)), ("most", present.max())):
        facts[name] = _float32(value)
    coarse = _coarse(present)
    if feature.transform == "none":
        return NumberTransform(kind="none", fill=_float32(present.mean()), why=coarse, **facts)
    if present.min() == present.max():
        why = "constant in the training samples: a model learns nothing of it"
        return _constant(facts["least"], why, facts)
    kinds: tuple[Kind, ...] = ("standardise", "signed_log", "quantile")
    fits: dict[Kind, NumberTransform] = {}
    tails: dict[Kind, float] = {}
    for kind in kinds if feature.transform == "auto" else (feature.transform,):
        fits[kind], tails[kind] = _fitted(kind, present, facts)
        if tails[kind] <= TAIL:
            break
    chosen = min(tails, key=lambda kind: (tails[kind] > TAIL, tails[kind]))
    reasons = [coarse] if coarse else []
    if feature.transform == "auto":
        others = "".join(f", {tail:.1f} after {kind}" for kind, tail in tails.items() if kind != chosen)
        reasons.insert(0, f"{CORE:.1%} of samples within {tails[chosen]:.1f} standard deviations{others}")
    return replace(fits[chosen], why="; ".join(reasons))


def transforms_to_dict(transforms: Mapping[str, NumberTransform]) -> dict[str, Any]:
    """JSON values of the transforms of a model's inputs."""
    return {name: asdict(transform) for name, transform in transforms.items()}


def transforms_from_dict(values: Mapping[str, Any]) -> dict[str, NumberTransform]:
    """Inverse of :func:`transforms_to_dict`; KeyError, TypeError or ValueError if they are malformed."""
    return {
        name: NumberTransform(**{**each, "boundaries": tuple(float(b) for b in each["boundaries"])})
        for name, each in values.items()
    }


def _constant(value: float, why: str, facts: Mapping[str, Any]) -> NumberTransform:
    """Every number is read as 0: weights that never saw another value would make anything of it."""
    return NumberTransform(kind="standardise", centre=value, scale=0.0, low=value, high=value, why=why, **facts)


def _fitted(kind: Kind, present: Float64Array, facts: Mapping[str, Any]) -> tuple[NumberTransform, float]:
    """The transform, and within how many standard deviations ``CORE`` of the values lie."""
    unit, boundaries = 1.0, tuple[float, ...]()
    if kind == "signed_log":
        sizes = np.abs(present[present != 0])
        # A price of 0 is then as far below the smallest ones as these are from twice their size.
        unit = float(np.float32(max(np.quantile(sizes, 0.01), 1e-30)))
    if kind == "quantile":
        shares = np.arange(1, BUCKETS) / BUCKETS
        boundaries = tuple(np.quantile(present, shares, method="lower").tolist())
    g = _bent(kind, present, unit, boundaries)
    low, high = np.quantile(g, [(1 - CORE), CORE])
    inner = np.clip(g, low, high) if low < high else g  # of a flag that 1 in 2,000 has, all is outermost
    centre, deviation = float(inner.mean()), max(float(inner.std()), 1e-37)
    transform = NumberTransform(
        kind=kind,
        unit=unit,
        boundaries=boundaries,
        centre=_float32(centre),
        scale=_float32(1.0 / deviation),
        low=_float32(max(centre - BOUND * deviation, -_WIDEST)),
        high=_float32(min(centre + BOUND * deviation, _WIDEST)),
        **facts,
    )
    return transform, float(np.quantile(np.abs(g - centre), CORE) / deviation)


def _bent(kind: Kind, x: Float64Array, unit: float, boundaries: tuple[float, ...]) -> Float64Array:
    """g of the module's docstring."""
    if kind == "signed_log":
        return np.sign(x) * np.log(1.0 + np.abs(x) / unit)
    if kind == "quantile":
        below = np.searchsorted(boundaries, x, side="left")
        return (below + np.searchsorted(boundaries, x, side="right") - len(boundaries)).astype(np.float64)
    return x


def _coarse(present: Float64Array) -> str:
    """A warning if float32 tells few of the values apart, as of milliseconds since 1970."""
    step, deviation = float(np.spacing(np.float32(np.abs(present).max()))), float(present.std())
    if step <= 0.01 * deviation or bool((present == np.round(present)).all() and step <= 1):
        return ""
    return (
        f"float32 keeps numbers of this size in steps of {step:,.6g}, and they differ by {deviation:,.6g}: give them "
        "from a nearer zero, such as days since an event"
    )


def _float32(value: float) -> float:
    return float(np.float32(value))
