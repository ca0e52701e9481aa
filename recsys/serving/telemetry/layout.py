"""Layout: the memory-mapped file that all workers of a server count in, and the place of each count in it.

A header holds the names of the counted methods; then follows a row of 64-bit words for each worker: the histograms of
times, the stages' first, then counters and gauges, then a block for each release that is loaded at a time: its counts,
a histogram of its answers, one of its work as a shadow, and what ``families.slot_families`` lists. A worker that dies
leaves its row, and the one that takes its place goes on counting in it: no counter ever falls while the server lives;
gauges are set to 0 for it. The file lives as long as the server, and only its program reads it.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError
from recsys.files import write_atomically
from recsys.releases.served import MAX_RELEASES
from recsys.serving.telemetry.families import BOUNDS_US, Family, families, histograms, slot_families
from recsys.serving.telemetry.stage_timer import STAGES

HISTOGRAM = len(BOUNDS_US) + 2
"""Words of a histogram: buckets, one for what is longer, the sum in us."""

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
"""Words of a release's block that :mod:`release_figures` reads; what ``slot_families`` lists follows them."""

_MAGIC = 0x5253544C
_VERSION = zlib.crc32(
    repr((BOUNDS_US, STAGES, RELEASE_COUNTS, MAX_RELEASES, families(()), histograms(()), slot_families(()))).encode()
)
_FIXED = 3  # magic, version, bytes of the methods' names, which follow
_LINE = 8  # words of a cache line: workers do not share one


@dataclass(frozen=True)
class CounterFile:
    """An open file. A key is (family, *label values); a place is a word's, from the start of a row.

    Attributes:
        words: the file.
        families: of its counters and gauges.
        histograms: families of times.
        slot_families: of each release.
        places: key of a counter or gauge -> place.
        times: key of a histogram -> the place of its first word.
        slot_places: key of what is counted of a release -> place, from the start of the release's block.
        releases: the place of the first release's block; the others follow.
        slot_words: words of a release's block.
        first: the place of the first row in the file.
        row: words of a row.
    """

    words: memoryview
    families: tuple[Family, ...]
    histograms: tuple[Family, ...]
    slot_families: tuple[Family, ...]
    places: Mapping[tuple[str, ...], int]
    times: Mapping[tuple[str, ...], int]
    slot_places: Mapping[tuple[str, ...], int]
    releases: int
    slot_words: int
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
    rows = np.zeros(workers * _row_words(methods), dtype=np.uint64)
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
    methods = words[_FIXED:first].tobytes()[: words[2]].decode().split()
    return CounterFile(
        words=words,
        families=families(methods),
        histograms=histograms(methods),
        slot_families=slot_families(methods),
        places=_numbered(families(methods), start=_times_words(methods)),
        times={key: HISTOGRAM * number for number, key in enumerate(_keys(histograms(methods)))},
        slot_places=_numbered(slot_families(methods), start=RELEASE_WORDS),
        releases=_first_release(methods),
        slot_words=_slot_words(methods),
        first=first,
        row=_row_words(methods),
    )


def rows_of(file: CounterFile) -> npt.NDArray[np.uint64]:
    """Words of all workers, the dead ones too: uint64, [workers, words of a row]."""
    return np.frombuffer(file.words, dtype=np.uint64)[file.first :].reshape(-1, file.row)


def sum_of_rows(file: CounterFile) -> list[int]:
    """Words of a row, each summed over all workers, the dead ones too."""
    return rows_of(file).sum(axis=0).tolist()  # type: ignore[no-any-return]


def _keys(of: Sequence[Family]) -> list[tuple[str, ...]]:
    return [key for family in of for key in family.keys()]


def _numbered(of: Sequence[Family], *, start: int) -> dict[tuple[str, ...], int]:
    return {key: start + number for number, key in enumerate(_keys(of))}


def _times_words(methods: Sequence[str]) -> int:
    return HISTOGRAM * len(_keys(histograms(methods)))


def _first_release(methods: Sequence[str]) -> int:
    return _times_words(methods) + len(_keys(families(methods)))


def _slot_words(methods: Sequence[str]) -> int:
    return RELEASE_WORDS + len(_keys(slot_families(methods)))


def _row_words(methods: Sequence[str]) -> int:
    return _whole_lines(_first_release(methods) + MAX_RELEASES * _slot_words(methods))


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
