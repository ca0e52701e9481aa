"""Cost of a training step over a long history: SDIM, target attention over everything, and the mean.

A step is the model forwards and backwards with its tables' fused update, on a batch that is built already and is the
same for all: samples whose users have at least so many events, so that every history has just that length. The three
take turns; the figure is the median of the rounds. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, main, parser, rounded, say, spread
from harness.turns import peak_mib, reset_peak_mib

if TYPE_CHECKING:
    from recsys.data.samples.dataset import Dataset
    from recsys.embeddings.tables import TensorBatch

LIBRARIES = ("torch", "torchrec", "fbgemm-gpu-cpu", "numpy", "scipy")
RECIPE = "sdim_movielens_long"
BLOCKS = {"": "sdim", "din_long_": "din", "mean_": "mean"}
"""Prefix of the figure -> ``model.long``."""

TARGET_LENGTH, TARGET = 1000, 5.0
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "sdim_length.png"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    lengths: tuple[int, ...]
    rounds: int
    batch_size: int


SIZES = {
    "full": Size(lengths=(50, 200, 1000, 2000), rounds=5, batch_size=1024),
    "quick": Size(lengths=(50, 1000), rounds=1, batch_size=256),
    "tiny": Size(lengths=(1000,), rounds=1, batch_size=8),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import torch

    size = SIZES[options.size]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        folder = Path(made)
        source = _load(options.size, options.data, folder, 1)[1]
        on = machine(LIBRARIES, data=source, threads=torch.get_num_threads(), **asdict(size))
        for length in size.lengths:
            for made_line in _of_length(options, folder, length, on=on):
                found.setdefault(made_line["figure"].rpartition("_")[0], []).append(made_line["value"])
                yield made_line
    if options.size == "full":
        _draw(size.lengths, found)


def _of_length(options: argparse.Namespace, folder: Path, length: int, *, on: dict[str, Any]) -> Iterator[Line]:
    from harness.workers import worker

    size = SIZES[options.size]
    steps = {name: step_of(name, options.size, options.data, folder, length) for name in BLOCKS}
    times: dict[str, list[float]] = {name: [] for name in BLOCKS}
    for number in range(size.rounds + 1):  # the first warms up
        for name, step in steps.items():
            begun_s = time.perf_counter()
            step()
            if number:
                times[name].append(1000 * (time.perf_counter() - begun_s))
        if number:
            say(f"length {length}: " + ", ".join(f"{BLOCKS[n]} {t[-1]:.0f} ms" for n, t in times.items()))
    del steps
    for name in BLOCKS:
        yield line(
            f"sdim.{name}step_ms_{length}",
            median(times[name]),
            "ms",
            higher_is_better=False,
            compared_with="the other blocks on the same batch",
            samples_per_s=rounded(1000 * size.batch_size / median(times[name])),
            spread=spread(times[name]),
            on=on,
        )
    for name in BLOCKS:
        arguments = (name, options.size, options.data, folder, length)
        # A process of its own starts with no memory to use again; the smallest size is not about memory.
        with nullcontext(memory(*arguments)) if options.size == "tiny" else worker(memory, *arguments) as measure:
            yield line(
                f"sdim.{name}peak_mib_{length}",
                measure(2),
                "MiB",
                higher_is_better=False,
                compared_with="the other blocks on the same batch",
                counted="resident memory at its peak, less what libraries, data, model and batch took before",
                on=on,
            )
    if length == TARGET_LENGTH:
        ratios = [other / ours for ours, other in zip(times[""], times["din_long_"], strict=True)]
        yield line(
            f"sdim.vs_din_long_{length}",
            median(ratios),
            "ratio",
            higher_is_better=True,
            target=TARGET,
            compared_with="target attention over everything: its time for a step over SDIM's",
            spread=spread(ratios),
            on=on,
        )


def step_of(name: str, size: str, data: Path | None, folder: Path, length: int) -> Callable[[], None]:
    """A function that trains one step on the batch of this length, with the block of this name."""
    import torch
    import torch.nn.functional as F

    from recsys.data.samples.ids import map_ids
    from recsys.models.ranking.sdim import SdimConfig
    from recsys.recipes import recipe
    from recsys.training.tables.plan import build_row_maps
    from recsys.training.trained import build

    dataset, _ = _load(size, data, folder, length)
    config = recipe(RECIPE)
    assert isinstance(config.model, SdimConfig)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, long=BLOCKS[name]))
    row_maps = build_row_maps(config, dataset)
    mapped = map_ids(dataset, {table: row_map.lookup for table, row_map in row_maps.items()})
    torch.manual_seed(0)
    trained = build(config, dataset.table.features, row_maps, device=torch.device("cpu"))
    batch: TensorBatch = trained.convert(*_batch(mapped, length, SIZES[size].batch_size))
    optimizer = torch.optim.AdamW(trained.model.module.net.parameters(), lr=1e-3, fused=True)
    trained.model.train()

    def step() -> None:
        logits_B, _ = trained.model(batch)
        optimizer.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(logits_B, batch.labels).backward()
        optimizer.step()

    return step


def memory(name: str, size: str, data: Path | None, folder: Path, length: int) -> Callable[[float], float]:
    """A function that trains so many steps and tells the peak, in MiB."""
    step = step_of(name, size, data, folder, length)

    def measure(steps: float) -> float:
        before_mib = reset_peak_mib()
        for _ in range(int(steps)):
            step()
        return peak_mib() - before_mib

    return measure


def _batch(mapped: Dataset, length: int, size: int) -> tuple[Any, Any]:
    """Samples with a history of just this length, drawn with replacement where there are few."""
    import numpy as np

    from recsys.data.samples.dataset import make_batch
    from recsys.data.samples.ids import rows_of_codes

    long = np.flatnonzero(mapped.history_end - mapped.history_begin == length)
    chosen = np.random.Generator(np.random.PCG64(0)).choice(long, size=size, replace=len(long) < size)
    return make_batch(mapped, chosen), rows_of_codes(mapped)


def _load(size: str, data: Path | None, folder: Path, length: int) -> tuple[Dataset, str]:
    """MovieLens-1M's long histories if it is here, else synthetic ones; samples read ``length`` events."""
    from recsys.data.samples.dataset import make_dataset
    from recsys.data.sources.movielens.long_histories import prepare_movielens_long
    from recsys.data.sources.movielens.prepare import load_movielens
    from recsys.data.sources.synthetic.logs import make_long_range_log

    raw = make_long_range_log(users=3, events_per_user=1400, items=100)
    if size != "tiny":
        raw = load_movielens(data, cache_dir=folder / "downloads", allow_download=False)
        if raw.best_probabilities is not None:
            raw = make_long_range_log(users=300, events_per_user=2300)
    dataset = prepare_movielens_long(raw, folder / "prepared")
    features = dataset.table.features
    assert features.history is not None
    features = dataclasses.replace(features, history=dataclasses.replace(features.history, recent=length))
    return make_dataset(dataclasses.replace(dataset.table, features=features), dataset.samples), raw.source


def _draw(lengths: tuple[int, ...], found: dict[str, list[float]]) -> None:
    from recsys.plots import Chart, Series, write_png

    names = {"": "SDIM", "din_long_": "target attention (DIN-long)", "mean_": "mean"}
    charts = [
        Chart(
            title=title,
            x_label="events per sample",
            y_label=unit,
            series=[Series(name, lengths, found[f"sdim.{prefix}{figure}"]) for prefix, name in names.items()],
            log_x=True,
            log_y=True,
        )
        for title, unit, figure in (
            ("A training step of 1,024 samples", "ms", "step_ms"),
            ("Its peak memory", "MiB", "peak_mib"),
        )
    ]
    write_png(charts, PICTURE)


if __name__ == "__main__":
    main("sdim", run, parser(__doc__ or ""))
