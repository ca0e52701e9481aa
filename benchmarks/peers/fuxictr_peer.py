"""FuxiCTR's side of ``train.py``: its DIN and SDIM from its model zoo, its AutoInt stated with its own layers.

Runs in an environment of its own, which has ``fuxictr`` and not this project. Argument: a folder with ``spec.json`` and
the data (``peers/fuxictr_data.py``). Reads one JSON command a line on standard input, answers one JSON line each:

- ``{"do": "steps", "count": N}``: trains N steps; ``seconds``.
- ``{"do": "epoch"}``: trains what is left of the pass; ``steps``.
- ``{"do": "predict"}``: writes ``probability.npy`` of the test rows, in their order.
- ``{"do": "peak"}``: ``mib`` of resident memory at its peak since before the model was made, less what was there then.
"""

import importlib.metadata
import json
import logging
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block, ScaledDotProductAttention
from fuxictr.pytorch.models import BaseModel
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader
from model_zoo.LongCTR.SDIM.SDIM import SDIM
from torch import nn


class AutoIntLayer(nn.Module):
    """One interacting layer, linear projections, as FuxiCTR has it: residual where widths differ, then ReLU."""

    def __init__(self, width, attention_width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, attention_width, bias=False) for _ in range(3))
        self.residual = nn.Linear(width, attention_width, bias=False) if width != attention_width else None
        self.attention = ScaledDotProductAttention()

    def forward(self, fields):
        """[B, F, width] to [B, F, attention_width]."""
        rows, count = fields.shape[:2]
        parts = [
            p(fields).view(rows, count, self.heads, -1).transpose(1, 2) for p in (self.query, self.key, self.value)
        ]
        attended, _ = self.attention(*parts)
        attended = attended.transpose(1, 2).reshape(rows, count, -1)
        return (attended + (fields if self.residual is None else self.residual(fields))).relu()


class AutoInt(BaseModel):
    """AutoInt, or AutoInt+ with ``deep`` units."""

    def __init__(self, feature_map, attention_width, layers, heads, deep, learning_rate, embedding_dim, **kwargs):
        super().__init__(feature_map, model_id="AutoInt", gpu=-1, **kwargs)
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        widths = [embedding_dim] + [attention_width] * layers
        self.layers = nn.Sequential(*(AutoIntLayer(a, b, heads) for a, b in zip(widths[:-1], widths[1:], strict=True)))
        self.last = nn.Linear(feature_map.num_fields * attention_width, 1)
        inputs = feature_map.sum_emb_out_dim()
        self.deep = MLP_Block(input_dim=inputs, output_dim=1, hidden_units=deep) if deep else None
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        """A batch to probabilities."""
        fields = self.embedding_layer(self.get_inputs(inputs))
        logits = self.last(self.layers(fields).flatten(1))
        if self.deep is not None:
            logits = logits + self.deep(fields.flatten(1))
        return {"y_pred": self.output_activation(logits)}


def feature_map_of(spec, folder):
    """FuxiCTR's description of the columns."""
    features = FeatureMap("bench", str(folder))
    features.features = OrderedDict(spec["features"])
    features.labels = ["label"]
    features.default_emb_dim = spec["dim"]
    features.num_fields = features.get_num_fields()
    features.set_column_index()
    return features


def make_model(spec, features, folder):
    """The model of ``spec.json``."""
    shared = {
        "learning_rate": spec["learning_rate"],
        "embedding_dim": spec["dim"],
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "metrics": ["AUC"],
        "verbose": 0,
        "model_root": str(folder),
    }
    if spec["model"] == "autoint":
        return AutoInt(features, **spec["net"], **shared)
    return {"din": DIN, "sdim": SDIM}[spec["model"]](features, **spec["net"], **shared)


def make_loader(spec, features, folder, part, shuffle):
    """FuxiCTR's own loader, with its one worker process."""
    options = {"batch_size": spec["batch_size"], "shuffle": shuffle}
    if spec["model"] == "autoint":
        return NpzDataLoader(features, str(folder / part), **options)
    return LongCTRDataLoader(
        features,
        str(folder / part),
        str(folder / "users.parquet"),
        str(folder / "items.parquet"),
        max_len=spec["recent"],
        **options,
    )


def status_mib(name):
    """A figure of this process's memory."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(float(row.split()[1]) / 1024 for row in rows if row.startswith(name + ":"))


class Trainer:
    """Trains in turns: the loader goes on where the last turn ended."""

    def __init__(self, folder):
        self.folder = folder
        spec = json.loads((folder / "spec.json").read_text())
        self.spec, self.features = spec, feature_map_of(spec, folder)
        self.loader = make_loader(spec, self.features, folder, "train", True)
        Path("/proc/self/clear_refs").write_text("5")
        self.before_mib = status_mib("VmRSS")
        torch.manual_seed(spec["seed"])
        np.random.seed(spec["seed"])
        self.model = make_model(spec, self.features, folder)
        self.model._max_gradient_norm = 10.0
        self.model._total_steps = 0
        self.model._eval_steps = 10**12
        self.model._stop_training = False
        self.batches = iter(self.loader)

    def _next(self, count):
        for _ in range(count):
            try:
                yield next(self.batches)
            except StopIteration:
                self.batches = iter(self.loader)
                yield next(self.batches)

    def steps(self, count):
        """Trains so many by FuxiCTR's own loop over an epoch's batches."""
        started_s = time.perf_counter()
        self.model.train_epoch(self._next(count))
        return {"seconds": time.perf_counter() - started_s}

    def epoch(self):
        """To the end of the pass."""
        before = self.model._total_steps
        self.model.train_epoch(self.batches)
        self.batches = iter(self.loader)
        return {"steps": self.model._total_steps - before}

    def predict(self):
        """Of the test rows."""
        loader = make_loader(self.spec, self.features, self.folder, "test", False)
        np.save(self.folder / "probability.npy", self.model.predict(loader))
        return {}

    def peak(self):
        """Of this process; its loader's worker shares the data."""
        return {"mib": status_mib("VmHWM") - self.before_mib}


def main(folder):
    """Answers until standard input ends."""
    logging.disable(logging.INFO)
    out, sys.stdout = sys.stdout, sys.stderr  # what the package prints is no answer
    trainer = Trainer(folder)
    version = importlib.metadata.version("fuxictr")
    print(json.dumps({"fuxictr": version, "threads": torch.get_num_threads()}), file=out, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(trainer, command.pop("do"))(**command)), file=out, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
