"""ReleaseFigures: what is counted of one release, summed over all workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recsys.errors import InvalidInputError
from recsys.releases.served import MAX_RELEASES
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.layout import (
    HISTOGRAM,
    PARTS,
    RELEASE_COUNTS,
    open_counter_file,
    sum_of_rows,
)
from recsys.serving.telemetry.totals import Histogram, histogram_of

_SUMS = ("score_sum", "difference_sum", "overlap_sum", "items_overlap_sum")
_NO_REQUESTS = Histogram((0,) * len(BOUNDS_US), 0, 0)


@dataclass(frozen=True, kw_only=True)
class ReleaseFigures:
    """Counts of one release over some time.

    Attributes:
        answered: calls that it answered; a RankBatch counts once for each release that answered a part of it.
        failed: calls to it that ended with a status that is not the caller's fault.
        degraded: answers that lack a part.
        latency: of the answered calls, in the program.
        scored: candidates that it scored in answers of Rank, RankBatch and Recommend.
        score_sum: of their scores.
        shadow_offered: requests that it was to score as a shadow.
        shadow_scored, shadow_dropped, shadow_failed: ends of those; the rest waits.
        shadow_latency: of the scored ones.
        compared: candidates whose scores were compared with those that were answered.
        difference_sum: absolute differences of these scores, summed.
        overlap_sum: shares of the best candidates in common, a share for each request ranked as a shadow, summed.
        shadow_retrieved: those of the scored ones that were calls of Retrieve.
        items_overlap_sum: shares of the retrieved items in common, a share for each of these, summed.
    """

    answered: int = 0
    failed: int = 0
    degraded: int = 0
    latency: Histogram = field(default=_NO_REQUESTS)
    scored: int = 0
    score_sum: float = 0.0
    shadow_offered: int = 0
    shadow_scored: int = 0
    shadow_dropped: int = 0
    shadow_failed: int = 0
    shadow_latency: Histogram = field(default=_NO_REQUESTS)
    compared: int = 0
    difference_sum: float = 0.0
    overlap_sum: float = 0.0
    shadow_retrieved: int = 0
    items_overlap_sum: float = 0.0

    def __add__(self, other: ReleaseFigures) -> ReleaseFigures:
        """The figures of both, say of two servers."""
        return ReleaseFigures(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, earlier: ReleaseFigures) -> ReleaseFigures:
        """The figures since an earlier reading of the same slot of the same server."""
        return ReleaseFigures(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})

    @property
    def calls(self) -> int:
        """Calls that ended by its doing: answered, or failed."""
        return self.answered + self.failed

    @property
    def error_share(self) -> float:
        """Share of calls that failed; 0 without calls."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def degraded_share(self) -> float:
        """Share of answers that lack a part; 0 without answers."""
        return self.degraded / self.answered if self.answered else 0.0

    @property
    def mean_score(self) -> float | None:
        """Mean score of all candidates scored; None without one."""
        return self.score_sum / self.scored if self.scored else None

    @property
    def mean_difference(self) -> float | None:
        """Mean absolute difference of its scores to those answered, as a shadow; None if none was compared."""
        return self.difference_sum / self.compared if self.compared else None

    @property
    def shadow_ranked(self) -> int:
        """Requests whose candidates it scored as a shadow: all but those of Retrieve."""
        return self.shadow_scored - self.shadow_retrieved

    @property
    def mean_overlap(self) -> float | None:
        """Mean share of the best candidates in common, as a shadow; None if it ranked no request."""
        return self.overlap_sum / self.shadow_ranked if self.shadow_ranked else None

    @property
    def mean_items_overlap(self) -> float | None:
        """Mean share of the retrieved items in common, as a shadow; None if it retrieved none."""
        return self.items_overlap_sum / self.shadow_retrieved if self.shadow_retrieved else None

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON has them; :meth:`from_dict` reads it."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReleaseFigures:
        """Read what :meth:`as_dict` made; fields that are not there are zero, unknown ones are passed over.

        Raises:
            InvalidInputError: a histogram has other buckets than this program's.
        """
        known: dict[str, Any] = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in {"latency", "shadow_latency"} & set(known):
            known[name] = _histogram(name, known[name])
        return cls(**known)


def read_release_figures(path: Path) -> list[ReleaseFigures]:
    """Sum the figures of all workers so far, the dead ones too: an entry for each slot, in order.

    A slot that gets another release goes on counting: subtract what was read at that moment.

    Args:
        path: a counter file (``layout.py``).

    Raises:
        ConfigError: the file is not one of this program's.
    """
    file = open_counter_file(path)
    sums = sum_of_rows(file)[file.releases :]
    return [_figures(sums[slot * file.slot_words :]) for slot in range(MAX_RELEASES)]


def _figures(words: Sequence[int]) -> ReleaseFigures:
    counts = dict(zip(RELEASE_COUNTS, words, strict=False))
    answers, shadow = (words[len(RELEASE_COUNTS) + n * HISTOGRAM :][:HISTOGRAM] for n in (0, 1))
    sums = {name: _signed(counts[name]) / PARTS for name in _SUMS}
    return ReleaseFigures(
        answered=counts["answered"],
        failed=counts["failed"],
        degraded=counts["degraded"],
        latency=histogram_of(answers),
        scored=counts["scores"],
        shadow_offered=counts["offered"],
        shadow_scored=counts["scored"],
        shadow_dropped=counts["dropped"],
        shadow_failed=counts["failed_shadow"],
        shadow_latency=histogram_of(shadow),
        compared=counts["compared"],
        shadow_retrieved=counts["retrieved"],
        **sums,
    )


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _plain(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"at_most": list(value.at_most), "count": value.count, "sum_us": value.sum_us}
    return value


def _histogram(name: str, value: Mapping[str, Any]) -> Histogram:
    if len(value["at_most"]) != len(BOUNDS_US):
        raise InvalidInputError(
            f"{name}: {len(value['at_most'])} buckets; this program's histograms have {len(BOUNDS_US)}: use the "
            "program that wrote it"
        )
    return Histogram(tuple(value["at_most"]), value["count"], value["sum_us"])
