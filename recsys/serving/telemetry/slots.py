"""SlotCounts: what ``families.slot_families`` lists, of one release, summed over all workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recsys.releases.served import MAX_RELEASES
from recsys.serving.telemetry.families import SCORE_BUCKETS, Family
from recsys.serving.telemetry.layout import open_counter_file, sum_of_rows


@dataclass(frozen=True)
class SlotCounts:
    """Counts of one release over some time.

    Attributes:
        counts: (family, *label values) -> count; one that is not there is 0.
    """

    counts: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def __sub__(self, earlier: SlotCounts) -> SlotCounts:
        """The counts since an earlier reading of the same slot of the same server."""
        return SlotCounts({key: count - earlier.counts.get(key, 0) for key, count in self.counts.items()})

    def of(self, name: str, *values: str) -> int:
        """The count with these labels."""
        return self.counts.get((name, *values), 0)

    def scores(self) -> tuple[int, ...]:
        """Scores in each of ``SCORE_BUCKETS``."""
        return tuple(self.of("release_scores", bucket) for bucket in SCORE_BUCKETS)


def read_slots(path: Path) -> tuple[tuple[Family, ...], list[SlotCounts]]:
    """Sum the counts of all workers so far: the families, and an entry for each slot, in order.

    A slot that gets another release goes on counting: subtract what was read at that moment.

    Raises:
        ConfigError: the file is not one of this program's.
    """
    file = open_counter_file(path)
    sums = sum_of_rows(file)[file.releases :]
    blocks = [sums[slot * file.slot_words :][: file.slot_words] for slot in range(MAX_RELEASES)]
    return file.slot_families, [
        SlotCounts({key: block[place] for key, place in file.slot_places.items()}) for block in blocks
    ]
