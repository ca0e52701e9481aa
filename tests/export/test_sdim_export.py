"""SDIM and its ablations answer in ONNX Runtime what they answer in torch; SDIM's rank graph reads no history."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_run import CONFIG, NAMESAKES, PLAIN, folder_of_this_process, tiny_dataset

from recsys.bundle import Manifest, open_bundle
from recsys.errors import ConfigError
from recsys.export.onnx import export_bundle
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking import build_net, widths
from recsys.models.sdim import SdimConfig
from recsys.serving.session import open_session
from recsys.training.config import RunConfig, override
from recsys.training.table_plan import build_row_maps
from recsys.training.trained import TrainedModel, build

LONG = ("sdim", "eta")
"""The other blocks have less in their graphs: attention over everything, its mask, or a vector."""


def config(long: str) -> RunConfig:
    model = SdimConfig(long=long, short=4, nearest=3, attention=(6, 5), head=(7,))  # type: ignore[arg-type]
    return replace(CONFIG, model=model)


def untrained(long: str) -> TrainedModel:
    """Weights large enough for a wrong answer to show."""
    dataset = tiny_dataset()
    torch.manual_seed(4)
    made = build(
        config(long), dataset.table.features, build_row_maps(config(long), dataset), device=torch.device("cpu")
    )
    with torch.no_grad():
        for name, weight in made.model.module.net.named_parameters():
            if name.endswith("weight") and weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
    return made


@cache
def exported(long: str) -> tuple[TrainedModel, Path, Manifest]:
    made, folder = untrained(long), folder_of_this_process() / "bundle"
    return made, folder, export_bundle(made, tiny_dataset(), folder, name="tiny")


@pytest.mark.parametrize("long", LONG)
def test_every_long_block_exports_with_a_certificate_and_is_served(long: str) -> None:
    _, folder, manifest = exported(long)
    assert manifest.parity is not None and manifest.parity.max_abs_logit_difference < 1e-4
    assert manifest.parity.requests == 64
    open_session(open_bundle(folder))


def test_the_bundle_holds_the_directions_in_both_graphs() -> None:
    made, folder, _ = exported("sdim")
    d = made.model.module.net.state_dict()["long.signatures.directions_KD"].numpy()
    for graph in ("user.onnx", "rank.onnx"):
        weights = onnx.load(folder / graph, load_external_data=False).graph.initializer
        plain = [numpy_helper.to_array(w) for w in weights if not w.external_data]
        assert any(w.shape in (d.shape, d.T.shape) and np.allclose(w, d if w.shape == d.shape else d.T) for w in plain)


def test_what_the_rank_graph_of_sdim_reads_has_a_size_that_no_history_changes() -> None:
    _, _, manifest = exported("sdim")
    assert all(isinstance(size, int) for tensor in manifest.graphs["user"].outputs.values() for size in tensor.shape)
    assert manifest.graphs["user"].outputs["side.long_buckets"].shape[0] == 16 * 2**3
    assert "S" in exported("eta")[2].graphs["user"].outputs["side.long_keys"].shape


def test_sdim_without_a_history_is_refused() -> None:
    features = replace(tiny_dataset().table.features, history=None)
    dims = dict.fromkeys(features.tables(), 4)
    with pytest.raises(ConfigError, match="model 'sdim' reads a history, but 'movielens_1m' declares none"):
        build_net(features, dims=dims, config=SdimConfig())


@pytest.mark.parametrize("features", [PLAIN, NAMESAKES], ids=lambda features: features.name)
def test_events_without_an_attribute_of_items_have_no_category(features: FeatureSet) -> None:
    dims = dict.fromkeys(features.tables(), 4)
    assert len(widths(features, dims).stand_ins) == len(features.event_features()) - 1
    with pytest.raises(ConfigError, match="no attribute of the history is also one of the item"):
        build_net(features, dims=dims, config=SdimConfig(long="sim_hard"))


def test_a_movie_lacks_the_rating_and_has_the_main_genre() -> None:
    features = tiny_dataset().table.features
    found = widths(features, {**dict.fromkeys(features.tables(), 4), "genre": 8})
    assert found.key_fields == (4, 8, 4) and found.stand_ins == (2,)
    assert found.key_parts == (slice(0, 4), slice(4, 12), slice(12, 16))


def test_a_flag_swaps_the_long_block() -> None:
    changed = override(CONFIG, ["model.kind=sdim", "model.long=eta", "model.bits=2"])
    assert changed.model == SdimConfig(long="eta", bits=2)
    with pytest.raises(ConfigError, match=r"model\.long is 'simhard': did you mean 'sim_hard'"):
        override(CONFIG, ["model.kind=sdim", "model.long=simhard"])
