"""Every model's exported halves are the model, and nothing is computed per candidate that could be once per request."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from support.tiny_run import NAMESAKES, ONE_OFF, PLAIN, folder_of_this_process, odd_config, odd_dataset

from recsys.bundle import Manifest, open_bundle
from recsys.data.samples.dataset import Dataset
from recsys.export.onnx import export_bundle
from recsys.export.rewrites.simplify import independent_of
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.models.ranking.din import DinConfig
from recsys.models.ranking.sdim import SdimConfig
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import TrainedModel, build

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
    trained = build(config, features, build_row_maps(config, dataset), device=torch.device("cpu"))
    with torch.no_grad():
        for tensor in (*trained.model.module.net.parameters(), *trained.model.module.net.buffers()):
            if tensor.dim() == 2 and tensor.requires_grad:
                tensor.normal_(std=tensor.shape[1] ** -0.5)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.3, 1.2)
    trained.model.eval()
    manifest = export_bundle(trained, dataset, folder / "bundle", name="tiny")
    return trained, dataset, folder / "bundle", manifest


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_halves_are_the_model_that_was_not_split(name: str) -> None:
    """The certificate compares them on every sort of request; here is that it covers every model, closely."""
    _, _, folder, manifest = exported(name)
    assert manifest.certificate.max_abs_logit_difference <= 2e-5
    assert manifest.certificate.candidates > manifest.certificate.requests > 0
    open_ranking_session(open_bundle(folder))


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_computed_per_candidate_that_depends_on_none(name: str) -> None:
    _, _, folder, manifest = exported(name)
    rank = onnx.load(folder / "rank.onnx", load_external_data=False).graph
    candidates = set(manifest.graphs["rank"].inputs) - set(manifest.graphs["user"].outputs)
    assert candidates
    left = independent_of(rank, candidates)
    assert not left, [(node.op_type, list(node.output)) for node in left]
    constant = {tensor.name for tensor in rank.initializer}
    assert not [node.op_type for node in rank.node if node.input and constant.issuperset(node.input)]
