"""Answers: what all answers of Ranker have, degradations and timings; what one of FeatureStore could not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from recsys.proto import feature_store_pb2, ranker_pb2
from recsys.serving.rpc.statuses import truncate
from recsys.serving.telemetry.stage_timer import STAGES, StageTimer


class Degradable(Protocol):
    """A result that may lack parts."""

    @property
    def user_degraded(self) -> bool:
        """The user's history or features could not be read."""
        ...

    @property
    def items_degraded(self) -> bool:
        """The candidates' features could not be read."""
        ...

    @property
    def history_degraded(self) -> bool:
        """Only the newest part of a long history was looked at."""
        ...

    @property
    def attributes_degraded(self) -> bool:
        """Values of items, or which of them were withdrawn, may be other than the store has."""
        ...


_DEGRADATIONS = {
    "user": ranker_pb2.DEGRADATION_USER_UNAVAILABLE,
    "items": ranker_pb2.DEGRADATION_ITEMS_UNAVAILABLE,
    "history": ranker_pb2.DEGRADATION_HISTORY_PARTIAL,
    "attributes": ranker_pb2.DEGRADATION_ATTRIBUTES_STALE,
}


def degraded_parts(result: Degradable) -> list[str]:
    """List the parts that an answer lacks, by the names that clients get and counters have."""
    flags = (result.user_degraded, result.items_degraded, result.history_degraded, result.attributes_degraded)
    return [part for part, missing in zip(_DEGRADATIONS, flags, strict=True) if missing]


def degradations(result: Degradable) -> list[ranker_pb2.Degradation]:
    """List the same parts as the message has them."""
    return [_DEGRADATIONS[part] for part in degraded_parts(result)]


def damages(damaged: Mapping[int, Exception]) -> list[feature_store_pb2.Damage]:
    """List the places in an answer of FeatureStore that cannot be read, and why."""
    return [feature_store_pb2.Damage(position=place, reason=truncate(str(why))) for place, why in damaged.items()]


def timings(timer: StageTimer) -> ranker_pb2.Timings:
    """Convert the stages of a call until now."""
    timer.finish()
    return ranker_pb2.Timings(**{f"{stage}_us": us for stage, us in zip(STAGES, timer.in_us(), strict=True)})
