"""Training speed of DIN beside the same model in plain PyTorch.

Ours is ``recsys.training.loop.train`` itself: loader, converter, TorchRec tables with the fused
optimiser, AdamW. The other is ``harness/plain_din.py``: dense tables, padded histories, batches padded ahead of time.
After every few steps of the loop the other one trains as many in the same process; the figure is the median of the
rounds' ratios. That both compute the same function is checked by copying the weights of one into the other.

FuxiCTR, RecBole and torch-rechub are compared with where their Pythons are given (``peers/``).
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, main, parser, say, spread
from harness.turns import endless, peak_mib, reset_peak_mib, take_turns, training_peak_mib
from peers.beside_fuxictr import beside_fuxictr
from peers.beside_recbole import beside_recbole
from peers.beside_towers import beside_towers
from peers.step_profile import step_profiles

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from harness.plain_din import PlainDin

    from recsys.data.datasets import LoadedData
    from recsys.data.samples.dataset import Dataset
    from recsys.embeddings.row_maps.row_map import RowMap
    from recsys.training.config import RunConfig
    from recsys.training.trained import TrainedModel

RECIPE = "din_movielens_1m"
LIBRARIES = ("torch", "torchrec", "fbgemm-gpu-cpu", "numpy")
TARGET = 2.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of the measurement."""

    rounds: int
    steps: int
    memory_steps: int
    pool: int = 65_536
    batch_size: int = 1024


SIZES = {
    "full": Size(rounds=15, steps=20, memory_steps=20),
    "quick": Size(rounds=3, steps=6, memory_steps=4, pool=16_384),
    "tiny": Size(rounds=1, steps=2, memory_steps=1, pool=512, batch_size=128),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import torch

    size = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        folder = Path(made)
        yield from beside_towers(options, folder / "towers")
        if options.only:
            return
        work = Work.load(options.size, options.data, folder)
        on = machine(
            LIBRARIES,
            data=work.loaded.raw.source,
            threads=torch.get_num_threads(),
            recent_events=work.config.data.recent,
            **asdict(size),
        )
        yield from _same_function(work, on=on)
        yield from _speed(work, folder, on=on)
        yield from _memory(options, folder, on=on)
        yield from beside_fuxictr(options, folder / "fuxictr")
        yield from beside_recbole(options, folder / "recbole")
        if options.profile:
            yield from step_profiles(options, folder / "profile")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Model and data of the comparison."""

    size: Size
    config: RunConfig
    loaded: LoadedData
    dataset: Dataset
    mapped: Dataset
    row_maps: dict[str, RowMap]

    @classmethod
    def load(cls, size_name: str, data: Path | None, folder: Path) -> Work:
        """The recipe without regularisation, which plain PyTorch code does in too many ways to pick one."""
        import numpy as np
        from harness.log_data import load

        from recsys.data.samples.ids import map_ids
        from recsys.recipes import recipe
        from recsys.training.tables.plan import build_row_maps

        size, config = SIZES[size_name], recipe(RECIPE)
        config = endless(config, batch_size=size.batch_size)
        loaded = load(size_name, data, folder)
        say(f"data: {loaded.raw.source}")
        samples = loaded.dataset.samples
        none = np.empty(0, dtype=np.int64)
        splits = {"train": samples.splits["train"], "validation": none, "test": none}
        dataset = dataclasses.replace(loaded.dataset, samples=dataclasses.replace(samples, splits=splits))
        row_maps = build_row_maps(config, dataset)
        mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in row_maps.items()})
        return cls(size=size, config=config, loaded=loaded, dataset=dataset, mapped=mapped, row_maps=row_maps)

    def plain(self) -> PlainDin:
        """The model in plain PyTorch, with initial weights."""
        from harness.plain_din import PlainDin

        from recsys.models.ranking.model import widths

        features, tables = self.dataset.table.features, self.config.tables
        dims = {name: tables.dims.get(name, tables.dim) for name in self.row_maps}
        return PlainDin(
            features,
            rows={name: row_map.table_rows()[name] for name, row_map in self.row_maps.items()},
            dims=dims,
            widths=widths(features, dims),
            config=self.config.model,
        )

    def plain_steps(self) -> Callable[[int], None]:
        """A function that trains it so many steps."""
        import numpy as np
        from harness.plain_din import PlainPool, plain_steps

        random = np.random.Generator(np.random.PCG64(0))
        chosen = random.choice(self.mapped.split("train"), size=self.size.pool)
        return plain_steps(self.plain(), PlainPool(self.mapped, chosen), self.config.train)


def _same_function(work: Work, *, on: dict[str, Any]) -> Iterator[Line]:
    import torch
    from harness.plain_din import PlainPool

    from recsys.data.samples.dataset import make_batch
    from recsys.data.samples.ids import rows_of_codes
    from recsys.training.trained import build

    trained = build(work.config, work.dataset.table.features, work.row_maps, device=torch.device("cpu"))
    plain = work.plain()
    _randomise(plain)
    _copy(plain, trained)
    indices = work.mapped.split("train")[: work.config.train.batch_size]
    ours = trained.convert(make_batch(work.mapped, indices), rows_of_codes(work.mapped))
    other = PlainPool(work.mapped, indices)
    differences, largest = [], 0.0
    for training in (True, False):
        for model in (trained.model, plain):
            model.train(training)
            for part in model.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.eval()
        with torch.no_grad():
            logits_B = trained.model(ours)[0]
            differences.append(float((logits_B - plain(other.batch(range(len(indices))))).abs().max()))
            largest = max(largest, float(logits_B.abs().max()))
    yield line(
        "train.max_logit_difference",
        max(differences),
        "logit",
        higher_is_better=False,
        target=1e-4,
        compared_with="plain PyTorch with the same weights on one batch, in training (no dropout) and evaluation",
        largest_logit=largest,
        on=on,
    )


def _randomise(plain: PlainDin) -> None:
    """Weights large enough for a mistake to show."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in plain.parameters():
            scale = weight.shape[1] ** -0.5 if weight.dim() == 2 and weight.shape[1] > 1 else 0.3
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


def _copy(plain: PlainDin, trained: TrainedModel) -> None:
    """Give our model the plain one's weights."""
    import torch

    from recsys.embeddings.sharding.shard import table_weights

    net = trained.model.module.net
    unit = net.attention
    with torch.no_grad():
        for name, weight in table_weights(trained.model).items():
            weight.copy_(plain.tables[f"table_{name}"].weight)
        for ours, other in zip((unit.first, unit.second, unit.last), plain.unit[::2], strict=True):
            ours.load_state_dict(other.state_dict())
        for ours, other in zip((unit.first_act, unit.second_act), plain.unit[1::2], strict=True):
            ours.slope.copy_(other.weight.squeeze())
        assert len(net.head) == len(plain.head)
        for ours, other in zip(net.head.parameters(), plain.head.parameters(), strict=True):
            ours.copy_(other)


def _speed(work: Work, folder: Path, *, on: dict[str, Any]) -> Iterator[Line]:
    size = work.size
    say(f"{size.rounds} rounds of 2 x {size.steps} steps")
    plain_steps = work.plain_steps()
    plain_steps(2)

    def timed(steps: int) -> float:
        begun_s = time.perf_counter()
        plain_steps(steps)
        return time.perf_counter() - begun_s

    ours, plain = take_turns(
        work.config, work.dataset, folder / "run", rounds=size.rounds, steps=size.steps, other=timed
    )
    ratios = [o / p for o, p in zip(ours, plain, strict=True)]
    yield line(
        "train.din_vs_plain_torch",
        median(ratios),
        "ratio",
        higher_is_better=True,
        target=TARGET,
        compared_with="the same DIN in plain PyTorch: dense tables, padded histories, concatenated unit, Adam",
        spread=spread(ratios),
        on=on,
    )
    for figure, rates, other in (
        ("train.din_samples_per_s", ours, "train.plain_torch_samples_per_s"),
        ("train.plain_torch_samples_per_s", plain, "train.din_samples_per_s"),
    ):
        yield line(
            figure,
            median(rates),
            "samples/s",
            higher_is_better=True,
            compared_with=other,
            spread=spread(rates),
            on=on,
        )


def _memory(options: argparse.Namespace, folder: Path, *, on: dict[str, Any]) -> Iterator[Line]:
    """Memory of each beyond the interpreter, the libraries and the data, in a process of its own."""
    from harness.workers import worker

    names = {"din": "plain_torch", "plain_torch": "din"}
    for name, other in names.items():
        say(f"memory of {name}")
        with worker(memory, name, options.size, options.data, folder / name) as measure:
            peak_mib = measure(SIZES[options.size].memory_steps)
        yield line(
            f"train.{name}_peak_mib",
            peak_mib,
            "MiB",
            higher_is_better=False,
            compared_with=f"train.{other}_peak_mib",
            counted="resident memory at its peak, less what interpreter, libraries and data took before",
            on=on,
        )


def memory(name: str, size: str, data: Path | None, folder: Path) -> Callable[[float], float]:
    """A function that trains one of the two so many steps and tells the peak, in MiB."""
    work = Work.load(size, data, folder)

    def measure(steps: float) -> float:
        if name == "din":
            return training_peak_mib(work.config, work.dataset, folder / "run", steps=int(steps))
        before_mib = reset_peak_mib()
        work.plain_steps()(int(steps))
        return peak_mib() - before_mib

    return measure


if __name__ == "__main__":
    options = parser(__doc__ or "")
    for package in ("fuxictr", "recbole", "rechub"):
        options.add_argument(
            f"--{package}-python",
            type=Path,
            metavar="PATH",
            help=f"a Python that has {package}, to be compared with too",
        )
    options.add_argument("--only", choices=("towers",), help="measure one part: two_tower beside others'")
    options.add_argument("--profile", action="store_true", help="also show where a training step's time goes")
    main("train", run, options)
