"""A profile of a retrieval bundle: its index beside scoring all items, in turns, in this process, on one core.

A search is what a handler asks of the index: the user's vector, the best of the items that are allowed. The store, the
choice of these items by a filter's conditions, gRPC and the network are not in it.

Legend: ``M`` items, ``K`` found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import Bundle, open_bundle
from recsys.errors import BundleError, InvalidInputError
from recsys.operators import rows_scored, run_here
from recsys.profile.measure import bound_to
from recsys.profile.retrieval.cold import drop_pages
from recsys.profile.retrieval.requests import Asked, asked_users
from recsys.serving.inference.candidate_index import Allowed, Retrieved
from recsys.serving.inference.retrieval_session import MAX_ITEMS, RetrievalSession, open_retrieval

_SHARES = {"10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001}
_GROUP = 0.02
_WARM, _COLD = 3, 20
_EQUAL = 1e-5
"""Scores that differ by less, beside 1 or the largest, are equal but for rounding."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many of how many searches."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of searches, by the clock: the median, and the 99th percentile."""

    median_ms: float
    p99_ms: float

    @classmethod
    def of(cls, values: list[float]) -> Times:
        """Times of at least one search."""
        return cls(median_ms=float(np.median(values)), p99_ms=float(np.percentile(values, 99)))


@dataclass(frozen=True, kw_only=True)
class FilterRow:
    """Searches among the items that a filter lets pass.

    Attributes:
        name: of the filter.
        passed: items that pass.
        index: of searches by the index; None where recsys's operators do not run.
        exhaustive: of scoring all that pass, in float32, by ONNX Runtime.
        cold: of searches by the index without a vector in memory; None where their pages could not be dropped.
        rows_scored: vectors that a search read, median, and the most; None without operators.
        exact: share of the items of the exhaustive lists that the index found; None without operators.
        wanted: items of those lists.
    """

    name: str
    passed: int
    index: Times | None
    exhaustive: Times
    cold: Times | None
    rows_scored: tuple[int, int] | None
    exact: float | None
    wanted: int


@dataclass(frozen=True, kw_only=True)
class RetrievalProfile:
    """Figures of a bundle's index on this machine.

    Attributes:
        model, model_version: the bundle's.
        items: M.
        dim: columns of their vectors.
        coarse: kind of codes.
        users, users_are: how many were asked about, and who they are.
        top_k: length of the lists.
        searches: for each row.
        core: which one; None where a process cannot be bound to one.
        effective_dimension: of the vectors, as the certificate says.
        private_bytes: that opening the index and the first searches added to what the process does not share; None
            where the system does not tell.
        scanned_bytes_per_item: that a search of all items reads of each.
        mapped_bytes: of each table of the items, which all processes of a machine share.
        rows: by filter.
    """

    model: str
    model_version: str
    items: int
    dim: int
    coarse: str
    users: int
    users_are: str
    top_k: int
    searches: int
    core: int | None
    effective_dimension: float
    private_bytes: int | None
    scanned_bytes_per_item: int
    mapped_bytes: dict[str, int] = field(default_factory=dict)
    rows: tuple[FilterRow, ...] = ()


def profile_retrieval(
    path: Path,
    *,
    redis_url: str | None = None,
    history: int | None = None,
    top_k: int = 100,
    searches: int = 300,
    users: int = 200,
    core: int | None = None,
    progress: Progress = lambda name, done, of: None,
) -> RetrievalProfile:
    """Measure the index of a retrieval bundle.

    Args:
        path: its folder.
        redis_url: a store whose users' histories are taken, which are only read; None: made ones, where the bundle
            knows users by their history.
        history: events of each made user; default: 50.
        top_k: length of the lists.
        searches: for each filter and kind of search.
        users: most of them that are asked about, in turn.
        core: where to run; None: the last one there is.
        progress: called after each search.

    Raises:
        InvalidInputError: a number is out of range, or ``history`` or a store is given and not read.
        BundleError: the bundle is missing, altered, no retrieval bundle, has no index, or does not fit this program.
        StoreError: the store cannot be read.
    """
    for name, value, most in (("top_k", top_k, MAX_ITEMS), ("requests", searches, 1_000_000), ("users", users, 10_000)):
        if not 1 <= value <= most:
            raise InvalidInputError(f"{name} is {value:,}; allowed: 1 to {most:,}")
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.kind != "retrieval":
        raise BundleError(
            f"{path}: a {manifest.kind} bundle; allowed: a retrieval bundle (of a ranking bundle: without --retrieval)"
        )
    if manifest.index is None:
        raise BundleError(
            f"{path}: has no index: it was written by an earlier version. Export the run again (`recsys export`)"
        )
    with bound_to(core) as chosen:
        before = _private_bytes()
        index = open_retrieval(bundle)
        by_history = bool(index.history_fields)
        asked, users_are = asked_users(
            bundle, path, by_history=by_history, users=users, history=history, redis_url=redis_url
        )
        for each in asked[:_WARM]:
            _search(index, each, top_k, None)
        after = _private_bytes()
        way = _Way(bundle, path, index, open_retrieval(bundle, operators="standard"), asked, top_k)
        rows = tuple(way.rows(searches, progress))
    tables = {name: info for name, info in manifest.tables.items() if name.startswith("item_id.")}
    return RetrievalProfile(
        model=manifest.model,
        model_version=manifest.version,
        items=way.items,
        dim=tables["item_id.rows"].shape[1],
        coarse=manifest.index.coarse,
        users=len(asked),
        users_are=users_are,
        top_k=top_k,
        searches=searches,
        core=chosen,
        effective_dimension=manifest.index.effective_dimension,
        private_bytes=None if before is None or after is None else max(0, after - before),
        scanned_bytes_per_item=manifest.index.scanned_bytes_per_item,
        mapped_bytes={name: info.size_bytes for name, info in tables.items()},
        rows=rows,
    )


def filters_of(rows_MD: Float32Array) -> Iterator[tuple[str, Allowed | None, int]]:
    """Filters to measure: their names, what they allow, and how many items pass.

    Random items, as those of a filter on what vectors do not know; and a group, the items most like one of them, as a
    category's are.

    Args:
        rows_MD: the items' vectors.
    """
    items, random = len(rows_MD), np.random.Generator(np.random.PCG64(1))
    yield "all items", None, items
    for name, share in _SHARES.items():
        count = max(1, round(items * share))
        rows: Int64Array = np.sort(random.choice(items, count, replace=False)) + 1
        yield name, Allowed(rows_L=rows), count
    count = max(1, round(items * _GROUP))
    like = rows_MD @ rows_MD[random.integers(items)]
    rows = np.sort(np.argpartition(like, items - count)[items - count :]) + 1
    yield f"a category of {_GROUP:.0%}", Allowed(rows_L=rows), count


@dataclass(frozen=True)
class _Way:
    """The index, the same bundle by scoring all, and whom they are asked about."""

    bundle: Bundle
    path: Path
    index: RetrievalSession
    exhaustive: RetrievalSession
    asked: list[Asked]
    top_k: int

    @property
    def items(self) -> int:
        return len(self.index.keys)

    def rows(self, searches: int, progress: Progress) -> Iterator[FilterRow]:
        """Measure filter by filter."""
        info = self.bundle.manifest.tables["item_id.rows"]
        # Mapped no longer than this takes, or its pages could not be dropped.
        filters = list(filters_of(np.memmap(self.path / info.file, dtype="<f4", mode="r", shape=info.shape)[1:]))
        for name, allowed, passed in filters:
            yield self._row(name, allowed, passed, searches, progress)

    def _row(self, name: str, allowed: Allowed | None, passed: int, searches: int, progress: Progress) -> FilterRow:
        has_operators = "TopItems" in run_here()
        index_ms: list[float] = []
        exhaustive_ms: list[float] = []
        scored: list[int] = []
        found = wanted = 0
        for number in range(-_WARM, searches):
            each = self.asked[number % len(self.asked)]
            ms, expected = _timed(self.exhaustive, each, self.top_k, allowed)
            own_ms, own, read = ms, expected, None
            if has_operators:
                own_ms, own = _timed(self.index, each, self.top_k, allowed)
                read = rows_scored() if own.known else None
            if number < 0:
                continue
            exhaustive_ms.append(ms)
            index_ms.append(own_ms)
            scored += [] if read is None else [read]
            found += _found(own, expected)
            wanted += len(expected.items)
            progress(name, number + 1, searches)
        return FilterRow(
            name=name,
            passed=passed,
            index=Times.of(index_ms) if has_operators else None,
            exhaustive=Times.of(exhaustive_ms),
            cold=self._cold(allowed, min(_COLD, searches)) if has_operators else None,
            rows_scored=(int(np.median(scored)), max(scored)) if scored else None,
            exact=(found / wanted if wanted else 1.0) if has_operators else None,
            wanted=wanted,
        )

    def _cold(self, allowed: Allowed | None, searches: int) -> Times | None:
        """Searches each of which finds no vector in memory; the codes stay."""
        file = self.path / self.bundle.manifest.tables["item_id.rows"].file
        found = []
        for number in range(searches):
            for session in (self.index, self.exhaustive):
                session.guard.let_pages_go()
            if not drop_pages(file):
                return None
            found.append(_timed(self.index, self.asked[number % len(self.asked)], self.top_k, allowed)[0])
        return Times.of(found)


def _timed(session: RetrievalSession, each: Asked, k: int, allowed: Allowed | None) -> tuple[float, Retrieved]:
    began = time.perf_counter()
    found = _search(session, each, k, allowed)
    return (time.perf_counter() - began) * 1e3, found


def _search(session: RetrievalSession, each: Asked, k: int, allowed: Allowed | None) -> Retrieved:
    return session.search(each.user_key, each.seen, k, each.events, allowed=allowed)


def _found(own: Retrieved, expected: Retrieved) -> int:
    """Count the items of an exhaustive list that the index found: of equal scores, but for rounding, any will do."""
    if not len(expected.scores):
        return 0
    least, largest = float(expected.scores.min()), float(np.abs(expected.scores).max())
    good = own.scores >= least - _EQUAL * max(1.0, largest)
    return min(len(np.unique(own.items[good])), len(expected.items))


def _private_bytes() -> int | None:
    """Memory of this process that it shares with none, bytes; None where the system does not tell (Linux)."""
    try:
        with closing(Path("/proc/self/status").open()) as status:
            kib = next((line.split()[1] for line in status if line.startswith("RssAnon:")), None)
    except OSError:
        return None
    return None if kib is None else int(kib) * 1024
