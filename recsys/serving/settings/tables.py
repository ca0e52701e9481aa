"""ModelSettings: how a bundle is checked, its tables read and its graphs run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.operators import Operators
from recsys.serving.settings.field import setting


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings of loading and running models."""

    operators: Operators = setting(
        "auto",
        "operators that compute the functions in a bundle's graphs; auto: recsys's compiled ones (for int8 products "
        "with AVX-512 VNNI only); standard: ONNX Runtime's only",
        kind=str,
        choices=("auto", "standard"),
    )
    verify: Literal["full", "sizes"] = setting(
        "full",
        "check of the bundle at start: full hashes every file (1 GB/s), sizes only looks at sizes",
        kind=str,
        choices=("full", "sizes"),
    )
    read_ahead_s: float = setting(
        10.0,
        "page read-ahead: longest time spent at start on reading hot ids' rows into memory; 0: none. Other rows "
        "are read from disk when asked for",
        kind=float,
        low=0.0,
        high=3_600.0,
    )
    read_ahead_ids: Path | None = setting(
        None,
        "file of hot ids (.npz with int64 arrays users and items); unset: the bundle's own, if its tables are not in "
        "memory already",
        kind=Path,
    )
    table_reads: Literal["auto", "random", "ahead"] = setting(
        "auto",
        "reads of table pages that are not in memory: with their neighbours (ahead), or one by one (random); auto: "
        "random where the tables are larger than the free memory, or, with releases, those of two larger than all "
        "memory",
        kind=str,
        choices=("auto", "random", "ahead"),
    )
    intra_op_threads: int = setting(
        1, "threads inside one model run; more only helps a mostly idle server", kind=int, low=1, high=256
    )
