"""MovieLens-1M as both sides of a comparison with FuxiCTR read it, and its files in FuxiCTR's form.

Both read the same: user id, gender, age, occupation, zip; the candidate's id and main genre; of past events the item's
id and main genre. What only one of the two could read (ratings of events, several genres, the year) is left out.

Legend: ``M`` samples, ``U`` users, ``I`` items.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.features.history.records import require_history

MAIN_GENRE = "main_genre"


def same_for_both(dataset: Dataset, *, recent: int) -> Dataset:
    """The dataset with only what both sides read; ``recent`` 0: no history."""
    table = dataset.table
    kept = tuple(f for f in table.features.item if f.name == MAIN_GENRE)
    history = None
    if recent:
        declared = require_history(table.features)
        attributes = tuple(a for a in declared.attributes if a.name == MAIN_GENRE)
        history = dataclasses.replace(declared, attributes=attributes, recent=recent)
    features = dataclasses.replace(table.features, item=kept, history=history)
    reduced = dataclasses.replace(
        table,
        features=features,
        items={name: table.items[name] for name in (features.item_id.name, MAIN_GENRE)},
        attributes={name: table.attributes[name] for name in (MAIN_GENRE,) if recent},
    )
    return make_dataset(reduced, dataset.samples)


def write_for_fuxictr(dataset: Dataset, folder: Path, *, spec: dict[str, Any]) -> Int64Array:
    """Write ``spec.json`` and the data; the labels of the test rows, [M]."""
    features = dataset.table.features
    user = {f.name: _numbered(dataset.user[f.name]) for f in (features.user_id, *features.user)}
    item = {f.name: _numbered(dataset.item[f.name]) for f in (features.item_id, *features.item)}
    declared: list[tuple[str, dict[str, Any]]] = [("user_index", _categorical("user", user[features.user_id.name]))]
    declared += [(f.name, _categorical("user", user[f.name])) for f in features.user]
    declared += [(name, _categorical("item", codes) | {"padding_idx": 0}) for name, codes in item.items()]
    if features.history is not None:
        declared += [(name, {"type": "meta", "source": ""}) for name in ("item_index", "seq_len")]
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = dataset.split(split)
        users, items = dataset.sample_user[rows], dataset.sample_item[rows]
        columns = {"user_index": users.astype(np.int64)}
        columns |= {f.name: user[f.name][users] for f in features.user}
        columns["label"] = dataset.samples.label[rows].astype(np.int64)
        if features.history is None:
            np.savez(folder / f"{split}.npz", **columns, **{name: codes[items] for name, codes in item.items()})
            continue
        columns["item_index"] = items.astype(np.int64) + 1
        columns["seq_len"] = dataset.history_end[rows] - dataset.table.offsets[users]
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    if features.history is not None:
        _write_sequences(dataset, item, folder)
    (folder / "spec.json").write_text(json.dumps({**spec, "features": declared}))
    return dataset.samples.label[dataset.split("test")].astype(np.int64)


def _write_sequences(dataset: Dataset, item: dict[str, Int64Array], folder: Path) -> None:
    offsets = pa.array(dataset.table.offsets, type=pa.int64())
    events = pa.array(dataset.table.item_index.astype(np.int64) + 1)
    sequences = pa.LargeListArray.from_arrays(offsets, events)
    pq.write_table(pa.table({"full_item_seq": sequences.cast(pa.list_(pa.int64()))}), folder / "users.parquet")
    items = len(dataset.table.item_keys)
    # Row 0 is padding.
    columns = {name: np.concatenate([[0], codes]) for name, codes in item.items()}
    pq.write_table(pa.table({"item_index": np.arange(items + 1), **columns}), folder / "items.parquet")


def _numbered(column: Any) -> Int64Array:
    """Ids as 1, 2, ...: FuxiCTR's 0 is padding."""
    return np.unique(column, return_inverse=True)[1].astype(np.int64) + 1


def _categorical(source: str, codes: Int64Array) -> dict[str, Any]:
    return {"type": "categorical", "source": source, "vocab_size": int(codes.max()) + 1}
