"""ParityReport: what was compared, and where the two sides differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.features.columns import Column

Progress = Callable[[int], None]
"""Called with the number of samples compared so far."""

SHOWN = 10
"""Differences that a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDifference:
    """The first feature in which one sample differs.

    Attributes:
        user_key: key of the user.
        time_ms: the sample's moment.
        feature: ``history.<name>``, ``user.<name>`` or ``item.<name>``.
        online, offline: both values, as keys or numbers.
    """

    user_key: int
    time_ms: int
    feature: str
    online: Any
    offline: Any

    def __str__(self) -> str:
        """One line."""
        return (
            f"user {self.user_key} at {self.time_ms}: {self.feature} is {_short(self.online)} online, "
            f"{_short(self.offline)} offline"
        )


@dataclass(slots=True)
class ParityReport:
    """Comparison of online and offline values, and its outcome.

    Attributes:
        samples: samples or requests compared.
        values: values compared.
        skipped: requests that were not compared: the store was degraded, or the user is not in the table.
        unknown_items: candidates of requests that were not compared: they are not in the table.
        different: samples that differ.
        features: first differing feature -> samples.
        differences: the first ``SHOWN`` of them.
        elapsed_s: seconds it took.
    """

    samples: int = 0
    values: int = 0
    skipped: int = 0
    unknown_items: int = 0
    different: int = 0
    features: Counter[str] = field(default_factory=Counter)
    differences: list[FeatureDifference] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def equal(self) -> bool:
        """True if something was compared, and all of it was the same."""
        return self.samples > 0 and self.different == 0

    def add(self, user_key: int, time_ms: int, online: Mapping[str, Column], offline: Mapping[str, Column]) -> None:
        """Compare one sample; both sides have the same features."""
        self.samples += 1
        for feature, theirs in offline.items():
            ours = online[feature]
            self.values += theirs.size
            if ours.shape != theirs.shape or not np.array_equal(ours, theirs):
                self.different += 1
                self.features[feature] += 1
                if len(self.differences) < SHOWN:
                    self.differences.append(
                        FeatureDifference(
                            user_key=user_key,
                            time_ms=time_ms,
                            feature=feature,
                            online=ours.tolist(),
                            offline=theirs.tolist(),
                        )
                    )
                return


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:100]} ... {text[-50:]}"
