"""Charts to draw: series on axes, bars, dots on lines, a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import InvalidInputError


@dataclass(frozen=True)
class Series:
    """Points, or the line through them.

    Attributes:
        name: in the legend.
        x, y: coordinates; points that are not finite, or not positive on a logarithmic axis, are left out.
        error: half the length of each point's vertical error bar.
        line: a line through the points in the order given, instead of markers.
        ring: circles around points of other series, instead of markers.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    line: bool = False
    ring: bool = False

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.x, self.y, self.error) if values is not None]
        if len(set(lengths)) > 1:
            raise InvalidInputError(f"series {self.name!r}: lengths of x, y, error are {lengths}; allowed: equal ones")


@dataclass(frozen=True)
class Chart:
    """Series on one pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Bars:
    """A horizontal bar per label, of values 0 or more."""

    title: str
    labels: Sequence[str]
    values: Sequence[float]
    unit: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.values):
            raise InvalidInputError(f"bars {self.title!r}: {len(self.labels)} labels for {len(self.values)} values")


@dataclass(frozen=True)
class SignedBars:
    """A horizontal bar per label from 0, to the right for values above it and to the left for those below.

    Attributes:
        title: above.
        labels: of the bars.
        values: finite.
        error: half the length of each bar's error bar; 0 for none. None: no bar has one.
    """

    title: str
    labels: Sequence[str]
    values: Sequence[float]
    error: Sequence[float] | None = None

    def __post_init__(self) -> None:
        lengths = [len(column) for column in (self.labels, self.values, self.error) if column is not None]
        if len(set(lengths)) > 1:
            raise InvalidInputError(f"bars {self.title!r}: {lengths} labels, values, errors; allowed: as many")


@dataclass(frozen=True)
class Dots:
    """A line per label with a point of each series on it: values far from 0, of which bars would show nothing.

    A series' ``x`` are the values, its ``y`` the numbers of the labels from 0, its ``error`` is along x.
    """

    title: str
    labels: Sequence[str]
    series: Sequence[Series]

    def __post_init__(self) -> None:
        wrong = [y for each in self.series for y in each.y if not 0 <= y < len(self.labels)]
        if wrong:
            raise InvalidInputError(f"dots {self.title!r}: line {wrong[0]}; allowed: 0 to {len(self.labels) - 1}")


@dataclass(frozen=True)
class Heat:
    """A square per pair of labels, the darker the larger its value, which is 0 to 1; rows from the top."""

    title: str
    labels: Sequence[str]
    values: npt.NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        size = len(self.labels)
        if self.values.shape != (size, size):
            shape = " x ".join(map(str, self.values.shape))
            raise InvalidInputError(f"heat {self.title!r}: {shape} values for {size} labels; allowed: {size} x {size}")
