"""torch-rechub's side of ``train.py``: its YoutubeDNN, loader and trainer, with three negatives as in its example.

Runs in an environment of its own, which has ``torch-rechub`` and not this project. Argument: a folder with
``spec.json`` and ``samples.npz``. Reads JSON commands on standard input, a line each, answers one JSON line each:
``{"do": "batches", "count": N}`` trains N batches; ``seconds``.
"""

import importlib.metadata
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import YoutubeDNN
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator

NEGATIVES = 3


class Trainer:
    """Trains in turns: each goes on where the last one ended."""

    def __init__(self, folder):
        spec = json.loads((folder / "spec.json").read_text())
        torch.manual_seed(2026)
        given = np.load(folder / "samples.npz")
        items, width = spec["items"], spec["width"]
        samples = {name: given[name] for name in ("history", "item")}
        size = (len(samples["item"]), NEGATIVES)
        samples["negatives"] = np.random.default_rng(2026).integers(1, items, size)
        made = MatchDataGenerator(samples, y=np.zeros(len(samples["item"]), dtype=np.int64))
        one = {name: values[:1] for name, values in samples.items()}
        self.loader, _, _ = made.generate_dataloader(one, one, batch_size=spec["batch_size"], num_workers=0)
        model = YoutubeDNN(
            [SequenceFeature("history", items, width, pooling="mean", shared_with="item", padding_idx=0)],
            [SparseFeature("item", items, width)],
            [SequenceFeature("negatives", items, width, pooling="concat", shared_with="item")],
            user_params={"dims": [2 * width, width]},
            temperature=0.1,
        )
        self.trainer = MatchTrainer(model, mode=2, optimizer_params={"lr": 1e-3, "weight_decay": 0.0})
        self.left = iter(())

    def _some(self, count):
        """So many batches; an epoch is begun where one ends."""
        while count:
            for batch in itertools.islice(self.left, count):
                count -= 1
                yield batch
            if count:
                self.left = iter(self.loader)

    def batches(self, count):
        """Trains so many."""
        started_s = time.perf_counter()
        self.trainer.train_one_epoch(self._some(count))
        return {"seconds": time.perf_counter() - started_s}


def main(folder):
    """Answers until standard input ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no answer
    trainer = Trainer(folder)
    ready = {"rechub": importlib.metadata.version("torch-rechub"), "threads": torch.get_num_threads()}
    print(json.dumps(ready), file=out, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(trainer, command.pop("do"))(**command)), file=out, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
