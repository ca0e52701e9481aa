"""An untrained SDIM bundle for histories longer than one read, and a store with some."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from recsys.bundle import Bundle, Manifest, bundle_writer, open_bundle
from recsys.export.graphs.files import save_graph
from recsys.export.onnx import export_bundle
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, make_events, require_history
from recsys.models.ranking.sdim import SdimConfig
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import build
from support.tiny_run import CONFIG, folder_of_this_process, tiny_dataset

USERS, ITEMS, RECENT, T0_MS = 150, 60, 6_000, 1_700_000_000_000


@cache
def sdim_bundle() -> Bundle:
    """The bundle; its graphs take histories of any length."""
    config = replace(CONFIG, model=SdimConfig(short=4, nearest=3, attention=(6, 5), head=(7,)))
    dataset = tiny_dataset()
    torch.manual_seed(4)
    made = build(config, dataset.table.features, build_row_maps(config, dataset), device=torch.device("cpu"))
    folder = folder_of_this_process()
    manifest = export_bundle(made, dataset, folder / "short", name="tiny")
    history = replace(require_history(manifest.feature_set), recent=RECENT, max_events=RECENT)
    features = replace(manifest.feature_set, history=history)
    with bundle_writer(folder / "long") as writer:
        for name in manifest.files:
            shutil.copyfile(folder / "short" / name, writer.folder / name)
        writer.finish(replace(manifest, feature_set=features))
    return open_bundle(folder / "long")


@cache
def other_network() -> Bundle:
    """The bundle with other weights in its ``rank`` graph, and nothing else."""

    def change(folder: Path, manifest: Manifest) -> Manifest:
        graph = onnx.load(folder / "rank.onnx", load_external_data=False)
        for tensor in graph.graph.initializer:
            if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT and not tensor.external_data:
                tensor.CopyFrom(numpy_helper.from_array(-10.0 * numpy_helper.to_array(tensor), tensor.name))
        save_graph(graph, folder / "rank.onnx")
        return manifest

    return _changed("network", change)


@cache
def other_table() -> Bundle:
    """The bundle with other vectors of all items, and so with other sums of every history."""

    def change(folder: Path, manifest: Manifest) -> Manifest:
        table = manifest.tables[f"{manifest.feature_set.item_id.table}.rows"]
        rows = np.memmap(folder / table.file, table.dtype, "r+", table.offset_bytes, table.shape)
        rows *= -30
        rows.flush()
        return replace(manifest, encode_sha256=hashlib.sha256(rows.tobytes()).hexdigest())

    return _changed("table", change)


def _changed(name: str, change: Callable[[Path, Manifest], Manifest]) -> Bundle:
    bundle, folder = sdim_bundle(), folder_of_this_process() / name
    with bundle_writer(folder) as writer:
        for file in bundle.manifest.files:
            shutil.copyfile(bundle.path / file, writer.folder / file)
        writer.finish(change(writer.folder, bundle.manifest))
    return open_bundle(folder)


def random_events(features: FeatureSet, count: int, *, seed: int, start: int = 0) -> Events:
    """Events 1 ms apart."""
    random = np.random.Generator(np.random.PCG64(seed))
    times = T0_MS + start + np.arange(count)
    attributes: dict[str, object] = {}
    for attribute in require_history(features).attributes:
        drawn = random.integers(1, 6, count)
        attributes[attribute.name] = drawn if attribute.id_type == "int" else [f"{n}" for n in drawn.tolist()]
    return make_events(features, item=random.integers(1, ITEMS + 1, count), timestamp_ms=times, attributes=attributes)


async def fill(url: str, lengths: dict[int, int]) -> None:
    """Histories of so many events for these users."""
    features = sdim_bundle().features
    store = RedisFeatureStore.connect(url, features)
    try:
        for user, length in lengths.items():
            await store.append(user, random_events(features, length, seed=user), timeout_s=30)
        keys = np.arange(1, ITEMS + 1)
        await store.put_entities("item", keys, make_columns(features.item, {}, length=len(keys)), timeout_s=30)
    finally:
        await store.close()
