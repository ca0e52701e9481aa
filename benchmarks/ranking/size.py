"""Sizes of ``rank.py`` and its parts: how much to measure, and how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurements."""

    rounds: int
    round_s: float
    paced_s: float
    items: int = 1_000_000
    users: int = 256
    events: int = 1_000
    requests: int = 512
    candidates: int = 200
    callers: int = 8
    lengths: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    table_rows: int = 7_812_500


SIZES = {
    "full": Size(rounds=9, round_s=2.0, paced_s=30.0),
    "quick": Size(rounds=2, round_s=0.5, paced_s=1.0, items=50_000, users=32, requests=64, lengths=(100, 5_000),
                  table_rows=100_000),
    "tiny": Size(rounds=1, round_s=0.1, paced_s=0.2, items=1_000, users=8, events=120, requests=8, candidates=20,
                 lengths=(100, 300), table_rows=1_000),
}  # fmt: skip
