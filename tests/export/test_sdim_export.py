"""SDIM and its ablations answer in ONNX Runtime what they answer in torch; SDIM's rank graph reads no history."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.tiny_run import CONFIG, NAMESAKES, PLAIN, first_in_run, tiny_dataset

from recsys.arrays import Float32Array
from recsys.bundle import MANIFEST, Manifest, StateInfo, open_bundle, read_manifest
from recsys.bundle.manifest import manifest_to_dict
from recsys.embeddings.dense_twin import DenseTwin
from recsys.embeddings.numbers import NumberInputs
from recsys.errors import BundleError, ConfigError
from recsys.export import certificate as certificate_module
from recsys.export.certificate import OrtGraphs, certify
from recsys.export.graphs.encode_digest import encode_digest
from recsys.export.graphs.modules import EncodeGraph, build_frozen_net
from recsys.export.onnx import export_bundle
from recsys.export.quantized import stored_tables
from recsys.features.encode import EncodedRequest
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import require_history
from recsys.models.ranking.model import build_net, widths
from recsys.models.ranking.network import StatefulNet
from recsys.models.ranking.sdim import SdimConfig
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.training.config import RunConfig
from recsys.training.settings import override
from recsys.training.tables.plan import build_row_maps
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
    made = untrained(long)
    with first_in_run(f"sdim-export-{long}") as (folder, first):
        if first:
            export_bundle(made, tiny_dataset(), folder / "bundle", name="tiny")
    return made, folder / "bundle", read_manifest(folder / "bundle")


@pytest.mark.parametrize("long", LONG)
def test_every_long_block_exports_with_a_certificate_and_is_served(long: str) -> None:
    _, folder, manifest = exported(long)
    assert manifest.certificate is not None and manifest.certificate.max_abs_logit_difference < 1e-4
    assert manifest.certificate.requests == 64
    open_ranking_session(open_bundle(folder))


def test_only_sdims_bundle_has_a_state_and_a_graph_for_it() -> None:
    made, folder, manifest = exported("sdim")
    width = made.model.module.net.widths.key
    assert manifest.state == StateInfo(rows=16 * 2**3, width=width, newest=4)
    assert open_bundle(folder).manifest == manifest
    user, encode = manifest.graphs["user"], manifest.graphs["encode"]
    assert user.inputs["state.sums"].shape == user.outputs["state.next"].shape == (128, width)
    assert encode.outputs["sums"].shape == (128, width) and user.inputs["state.fresh"].shape == ("S",)
    assert encode.inputs == {name: info for name, info in user.inputs.items() if name.startswith("history.")}
    assert "state.next" not in manifest.graphs["rank"].inputs
    _, _, other = exported("eta")
    assert other.state is None and set(other.graphs) == {"user", "rank"}
    assert not any(name.startswith("state.") for name in other.graphs["user"].inputs)


def test_the_manifest_has_a_digest_of_the_encode_graph_that_another_network_leaves_as_it_is() -> None:
    _, _, manifest = exported("sdim")
    made = untrained("sdim")
    with torch.no_grad():
        for weight in made.model.module.net.parameters():
            weight.mul_(1.5)
    net, tables = build_frozen_net(made), stored_tables(made, "none")
    assert isinstance(net, StatefulNet)
    twin = DenseTwin(tables, made.row_maps, NumberInputs(made.features, made.numbers)).eval()
    assert manifest.encode_sha256 == encode_digest(EncodeGraph(made.features, net=net, twin=twin))


def test_states_are_of_the_events_that_count_in_the_shape_that_the_model_has() -> None:
    _, _, manifest = exported("sdim")
    state, history = manifest.state, require_history(manifest.feature_set)
    assert state is not None
    others = [
        replace(manifest, feature_set=replace(manifest.feature_set, history=replace(history, **change)))
        for change in ({"recent": 40}, {"max_age_s": 60}, {"attributes": history.attributes[:1]})
    ]
    others += [replace(manifest, state=replace(state, rows=64)), replace(manifest, encode_sha256="0" * 64)]
    versions = [made.state_version for made in (manifest, *others)]
    assert len({*versions}) == 6 and all(re.fullmatch("[0-9a-f]{16}", version) for version in versions)
    alike = replace(manifest, model="another", metrics={"auc": 0.5}, state=replace(state, newest=8))
    assert alike.state_version == manifest.state_version


def test_states_of_a_bundle_without_a_digest_of_its_encode_graph_are_its_own() -> None:
    _, folder, manifest = exported("sdim")
    older = replace(manifest, encode_sha256="")
    assert "encode_sha256" in (folder / MANIFEST).read_text()
    assert "encode_sha256" not in manifest_to_dict(older)
    assert older.state_version == older.version != manifest.version
    assert exported("eta")[2].state_version == exported("eta")[2].encode_sha256 == ""


@pytest.mark.parametrize("covered", [0, 1, 30, 49, 50])
def test_the_next_state_is_the_sums_of_state_and_fresh_events(covered: int) -> None:
    _, folder, _ = exported("sdim")
    graphs = OrtGraphs(folder)
    assert graphs.encode is not None
    random = np.random.Generator(np.random.PCG64(2))
    columns = {i.name: random.integers(-1, 60, size=50) for i in graphs.encode.get_inputs()}
    one = {i.name: np.zeros(1, i.type.replace("tensor(", "").rstrip(")").replace("float", "float32"))
           for i in graphs.user.get_inputs() if i.shape == [1]}  # fmt: skip
    whole = graphs.encode.run(None, columns)[0]
    sums = graphs.encode.run(None, {n: c[:covered] for n, c in columns.items()})[0] if covered else 0 * whole
    fresh = (np.arange(50) >= covered).astype(np.float32)
    given = {**one, **columns, "state.sums": sums, "state.fresh": fresh}
    np.testing.assert_allclose(graphs.user.run(["state.next"], given)[0], whole, atol=1e-5)
    assert np.array_equal(whole == 0, np.isclose(whole, 0, atol=1e-7))


def test_a_state_that_lacks_events_is_refused_by_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    made, folder, _ = exported("sdim")

    class Forgetful(OrtGraphs):
        def logits_from_state(self, request: EncodedRequest, covered: int, *, newest: int) -> Float32Array:
            kept = {n: c[covered // 2 :] if n.startswith("history.") else c for n, c in request.user.items()}
            shorter = replace(request, user=kept, history_events=request.history_events - covered // 2)
            return super().logits_from_state(shorter, covered - covered // 2, newest=newest)

    monkeypatch.setattr(certificate_module, "OrtGraphs", Forgetful)
    with pytest.raises(BundleError, match=r"on sample \d+, \d+ events of its history as a state; allowed"):
        certify(folder, made, tiny_dataset())


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
