"""RecBole's side of ``train.py``: its NGCF and LightGCN, its loader, trainer and evaluation.

Runs in an environment of its own, which has ``recbole`` and not this project. Argument: a folder with ``spec.json`` and
``bench/bench.{train,valid,test}.inter``. Reads one JSON command a line on standard input, answers one JSON line each:

- ``{"do": "batches", "count": N}``: trains N batches; ``seconds``, and ``batches`` of an epoch.
- ``{"do": "train", "seconds": S, "every": E}``: trains S seconds more, and after every E seconds, and at the end of
  each epoch, ranks all items for the users of the validation part: ``curve`` of [seconds trained, recall@20].
"""

import importlib.metadata
import itertools
import json
import logging
import sys
import time
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


class Trainer:
    """Trains in turns: each goes on where the last one ended."""

    def __init__(self, folder):
        spec = json.loads((folder / "spec.json").read_text())
        settings = {
            "data_path": str(folder),
            "checkpoint_dir": str(folder / "saved"),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "use_gpu": False,
            "show_progress": False,
            "topk": [20],
            "metrics": ["Recall", "NDCG"],
            "valid_metric": "Recall@20",
            "eval_args": {"group_by": "user", "order": "RO", "mode": "full"},
            **spec["settings"],
        }
        sys.argv = sys.argv[:1]  # RecBole reads it
        config = Config(model=spec["model"], dataset="bench", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        self.train_data, self.valid_data, _ = data_preparation(config, dataset)
        self.model = get_model(config["model"])(config, self.train_data.dataset)
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.model)
        self.trained_s = 0.0
        self.left = iter(())
        self.done = 0

    def _some(self, allowed):
        """Batches while ``allowed()``, of one epoch at most; an epoch is begun if none is open."""
        first = next(self.left, None)
        if first is None:
            self.left = iter(self.train_data)
            first = next(self.left)
        for batch in itertools.chain([first], iter(lambda: next(self.left, None), None)):
            self.done += 1
            yield batch
            if not allowed():
                return

    def _train(self, allowed):
        started_s = time.perf_counter()
        self.trainer._train_epoch(self._some(allowed), 0)
        took_s = time.perf_counter() - started_s
        self.trained_s += took_s
        return took_s

    def batches(self, count):
        """Trains so many."""
        seconds, first = 0.0, self.done
        while self.done < first + count:
            seconds += self._train(lambda: self.done < first + count)
        return {"seconds": seconds, "batches": len(self.train_data)}

    def train(self, seconds, every):
        """Trains so long."""
        curve, end_s = [], self.trained_s + seconds
        while self.trained_s < end_s:
            stop_s = time.perf_counter() + min(every, end_s - self.trained_s)
            self._train(lambda at=stop_s: time.perf_counter() < at)
            with torch.no_grad():
                found = self.trainer.evaluate(self.valid_data, load_best_model=False, show_progress=False)
            curve.append([self.trained_s, float(found["recall@20"])])
        return {"curve": curve}


def main(folder):
    """Answers until standard input ends."""
    logging.disable(logging.CRITICAL)
    out, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no answer
    trainer = Trainer(folder)
    ready = {"recbole": importlib.metadata.version("recbole"), "threads": torch.get_num_threads()}
    print(json.dumps(ready), file=out, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(trainer, command.pop("do"))(**command)), file=out, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
