"""Every sort of ranking model as an exported bundle, each made once in a test run: an export takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from recsys.bundle import Manifest, read_manifest
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.numbers import fit_numbers
from recsys.export.onnx import export_bundle
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.sdim import SdimConfig
from recsys.operators import use_operators
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import TrainedModel, build
from support.tiny_run import (
    NAMESAKES,
    ONE_OFF,
    PLAIN,
    first_in_run,
    folder_of_this_process,
    odd_config,
    odd_dataset,
)

SMALL: dict[str, Any] = {"attention": (6, 5), "head": (7,)}
MODELS: dict[str, tuple[FeatureSet, Any]] = {
    "din": (NAMESAKES, DinConfig(**SMALL)),
    "din, softmax, dice": (NAMESAKES, DinConfig(**SMALL, softmax=True, attention_act="dice")),
    "din, items of an id only": (PLAIN, DinConfig(**SMALL, head_act="prelu")),
    **{f"sdim, {long}": (PLAIN, SdimConfig(**SMALL, long=long, short=2, nearest=2)) for long in ("sdim", "din", "eta")},  # type: ignore[arg-type]
    "sdim, mean, softmax": (NAMESAKES, SdimConfig(**SMALL, long="mean", softmax=True)),
    "sdim, none": (NAMESAKES, SdimConfig(**SMALL, long="none")),
    "autoint": (NAMESAKES, AutoIntConfig(layers=2, attention_width=4, history="mean", field_norm=True)),
    "autoint, no history": (
        ONE_OFF,
        AutoIntConfig(layers=2, attention_width=8, wide=True, head=(5, 4), batch_norm=True),
    ),
    "dcn": (ONE_OFF, DcnConfig(cross_layers=2, head=(7, 5), batch_norm=True)),
    "dcn, parallel": (NAMESAKES, DcnConfig(head=(7,), structure="parallel", batch_norm=True)),
}


@cache
def exported(name: str) -> tuple[TrainedModel, Dataset, Path, Manifest]:
    """An untrained model with weights and statistics that are large enough for a wrong answer to show."""
    features, model = MODELS[name]
    folder = folder_of_this_process()
    dataset = odd_dataset(features, folder)
    config = replace(odd_config(), model=model)
    config = replace(config, tables=replace(config.tables, dims={}))
    torch.manual_seed(4)
    row_maps, numbers = build_row_maps(config, dataset), fit_numbers(dataset)
    trained = build(config, features, row_maps, device=torch.device("cpu"), numbers=numbers)
    with torch.no_grad():
        for tensor in (*trained.model.module.net.parameters(), *trained.model.module.net.buffers()):
            if tensor.dim() == 2 and tensor.requires_grad:
                tensor.normal_(std=tensor.shape[1] ** -0.5)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.3, 1.2)
    trained.model.eval()
    # Two processes build the same model: the bundle of one is the other's.
    with first_in_run(f"exported-{list(MODELS).index(name)}") as (shared, first):
        if first:
            export_bundle(trained, dataset, shared / "bundle", name="tiny")
    return trained, dataset, shared / "bundle", read_manifest(shared / "bundle")


def calls(graphs: Iterable[onnx.ModelProto]) -> list[str]:
    """Operators of ours that the graphs call."""
    return [node.op_type for graph in graphs for node in graph.graph.node if node.domain == "recsys"]


def operators_run(graph: Path, written: Path) -> set[str]:
    """Operators of ours that ONNX Runtime has in the graph as it runs it, instead of their bodies."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(written), 3
    use_operators(options)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return set(calls([onnx.load(written, load_external_data=False)]))
