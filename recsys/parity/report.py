"""ParityReport: what was compared, and where the two sides differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.names import Names, shown_ids, shown_value

Progress = Callable[[int], None]
"""Called with the number of samples compared so far."""

SHOWN = 10
"""Differences that a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDifference:
    """The first feature in which one sample differs.

    Attributes:
        user_key: key of the user.
        user: the user's id for people: an integer or a text.
        time_ms: the sample's moment.
        feature: ``history.<name>``, ``user.<name>`` or ``item.<name>``.
        online, offline: both values: numbers and integer ids as they are, string ids as texts, None for a missing one.
    """

    user_key: int
    user: str
    time_ms: int
    feature: str
    online: Any
    offline: Any

    def __str__(self) -> str:
        """One line."""
        return (
            f"user {self.user} at {self.time_ms}: {self.feature} is {_short(self.online)} online, "
            f"{_short(self.offline)} offline"
        )


@dataclass(slots=True)
class ParityReport:
    """Comparison of online and offline values, and its outcome.

    Attributes:
        declared: the FeatureSet of both sides.
        names: the texts of string ids, by embedding table.
        samples: samples or requests compared.
        values: values compared.
        skipped: requests that were not compared: the store was degraded, or the user is not in the table.
        unknown_items: candidates of requests that were not compared: they are not in the table.
        different: samples that differ.
        features: first differing feature -> samples.
        differences: the first ``SHOWN`` of them.
        elapsed_s: seconds it took.
    """

    declared: FeatureSet
    names: Mapping[str, Names] = field(default_factory=dict)
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
            if ours.shape != theirs.shape or not np.array_equal(ours, theirs, equal_nan=theirs.dtype.kind == "f"):
                self.different += 1
                self.features[feature] += 1
                if len(self.differences) < SHOWN:
                    self.differences.append(
                        FeatureDifference(
                            user_key=user_key,
                            user=shown_value(self.declared.user_id, user_key, self.names),
                            time_ms=time_ms,
                            feature=feature,
                            online=self._shown(feature, ours),
                            offline=self._shown(feature, theirs),
                        )
                    )
                return

    def _shown(self, name: str, column: Column) -> Any:
        """A column's values for people."""
        feature = _declared(self.declared).get(name)
        if not isinstance(feature, Categorical) or feature.id_type == "int":
            return column.tolist()
        shown = np.full(column.shape, None, dtype=object)
        present = column != MISSING
        texts = shown_ids(feature, column[present], self.names.get(feature.table))
        shown[present] = [str(text) for text in texts]
        return shown.tolist()


def _declared(features: FeatureSet) -> dict[str, Feature]:
    """Features by the names that differences have."""
    declared: dict[str, Feature] = {f"history.{f.name}": f for f in features.event_features()}
    declared |= {f"user.{f.name}": f for f in (features.user_id, *features.user)}
    return declared | {f"item.{f.name}": f for f in (features.item_id, *features.item)}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:100]} ... {text[-50:]}"
