"""The log that the benchmarks train on and serve."""

from __future__ import annotations

from pathlib import Path

from recsys.data.datasets import LoadedData, load_dataset
from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log


def load(size: str, data: Path | None, folder: Path) -> LoadedData:
    """MovieLens-1M if it is here, else a synthetic log; for ``tiny`` a very small one."""
    if size == "tiny":
        raw = make_synthetic_log(users=100, events_per_user=60, items=60)
        return LoadedData(raw=raw, dataset=prepare_movielens(raw, folder / "prepared"))
    return load_dataset(
        "movielens_1m", recent=50, work_dir=folder, path=data, allow_download=False, allow_synthetic=True
    )
