"""Layout: the memory-mapped file that all workers of a server count in, and the place of each count in it.

A header holds the names of the counted methods; then follows a row of 64-bit words for each worker: the histograms of
the stages, then the counters, then a block for each release that is loaded at a time: its counts, a histogram of its
answers, one of its work as a shadow. A worker that dies leaves its row, and the one that takes its place goes on
counting in it: no number ever falls while the server lives. The file lives as long as the server, and only its program
reads it.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.errors import ConfigError
from recsys.files import write_atomically
from recsys.releases.served import MAX_RELEASES
from recsys.serving.telemetry.families import BOUNDS_US, Family, families
from recsys.serving.telemetry.stage_timer import STAGES

HISTOGRAM = len(BOUNDS_US) + 2
"""Words of a histogram: buckets, one for what is longer, the sum in us."""

FIRST_COUNTER = len(STAGES) * HISTOGRAM
"""The place of the first counter in a row."""

RELEASE_COUNTS = (
    "answered", "failed", "degraded", "scores", "score_sum",
    "offered", "scored", "dropped", "failed_shadow", "compared", "difference_sum", "overlap_sum",
    "retrieved", "items_overlap_sum",
)  # fmt: skip
"""Counts of a release, in the order of its block; sums are in units of 1 / ``PARTS``, modulo 2**64: they may be
negative. ``release_figures.ReleaseFigures`` says what each is."""

PARTS = 1_000_000
"""Parts of one that sums of scores, differences and overlaps are counted in."""

RELEASE_WORDS = len(RELEASE_COUNTS) + 2 * HISTOGRAM
"""Words of a release's block."""

_MAGIC = 0x5253544C
_VERSION = zlib.crc32(repr((BOUNDS_US, STAGES, RELEASE_COUNTS, MAX_RELEASES, families(()))).encode())
_FIXED = 3  # magic, version, bytes of the methods' names, which follow
_LINE = 8  # words of a cache line: workers do not share one


@dataclass(frozen=True)
class CounterFile:
    """An open file.

    Attributes:
        words: the file.
        families: of its counters.
        places: (family, *label values) -> the counter's place in a row.
        releases: the place in a row of the first release's block; the others follow.
        first: the place of the first row.
        row: words of a row.
    """

    words: memoryview
    families: tuple[Family, ...]
    places: Mapping[tuple[str, ...], int]
    releases: int
    first: int
    row: int

    @property
    def rows(self) -> int:
        """Number of workers."""
        return (len(self.words) - self.first) // self.row


def create_counter_file(path: Path, *, workers: int, methods: Iterable[str]) -> Path:
    """Create a file of zeros with a row for each worker.

    Args:
        path: the file.
        workers: rows.
        methods: names of the methods whose calls are counted.
    """
    methods = tuple(methods)
    names = " ".join(methods).encode()
    header = np.zeros(_header_words(len(names)), dtype=np.uint64)
    header[:_FIXED] = _MAGIC, _VERSION, len(names)
    header[_FIXED:].view(np.uint8)[: len(names)] = np.frombuffer(names, dtype=np.uint8)
    rows = np.zeros(workers * _row_words(_places(families(methods))), dtype=np.uint64)
    write_atomically(path, header.tobytes() + rows.tobytes())
    return path


def open_counter_file(path: Path) -> CounterFile:
    """Map a file made by :func:`create_counter_file`.

    Raises:
        ConfigError: the file is not one of this program's.
    """
    words = _map(path)
    if len(words) < _FIXED or tuple(words[:2]) != (_MAGIC, _VERSION):
        raise ConfigError(f"{path} does not hold this program's counts; remove it, a server makes its own")
    first = _header_words(words[2])
    all_families = families(words[_FIXED:first].tobytes()[: words[2]].decode().split())
    places = _places(all_families)
    return CounterFile(words, all_families, places, _first_release(places), first, _row_words(places))


def sum_of_rows(file: CounterFile) -> list[int]:
    """Words of a row, each summed over all workers, the dead ones too."""
    rows = np.frombuffer(file.words, dtype=np.uint64)[file.first :].reshape(-1, file.row)
    return rows.sum(axis=0).tolist()  # type: ignore[no-any-return]


def _places(all_families: Sequence[Family]) -> dict[tuple[str, ...], int]:
    keys = [(family.name, *values) for family in all_families for values in family.combinations()]
    return {key: FIRST_COUNTER + number for number, key in enumerate(keys)}


def _row_words(places: Mapping[tuple[str, ...], int]) -> int:
    return _whole_lines(_first_release(places) + MAX_RELEASES * RELEASE_WORDS)


def _first_release(places: Mapping[tuple[str, ...], int]) -> int:
    return FIRST_COUNTER + len(places)


def _header_words(names_bytes: int) -> int:
    return _whole_lines(_FIXED + -(-names_bytes // 8))


def _whole_lines(words: int) -> int:
    return -(-words // _LINE) * _LINE


def _map(path: Path) -> memoryview:
    """Map the file as 64-bit words. Writing an item of a memoryview takes a third of the time of one of an array."""
    with path.open("r+b") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        except (ValueError, TypeError):  # an empty file; one of no whole words
            return memoryview(b"").cast("Q")
