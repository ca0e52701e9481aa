"""A run of ``two_tower`` on walks, and its bundle."""

from __future__ import annotations

import functools
from pathlib import Path

from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.run import train_any
from recsys.training.settings import override
from support.tiny_run import folder_of_this_process
from support.walks import walks

SMALL = override(
    RetrievalRunConfig(recipe="small"),
    [
        *("model.kind=two_tower", "model.dim=16", "model.attribute_dim=4", "model.layers=1", "model.dropout=0.1"),
        *("train.loss=softmax", "train.epochs=12", "train.batch_size=100", "train.learning_rate=0.02"),
        *("train.list_length=3", "train.validate_every=4", "train.sampled_items=20", "rows.min_count=1"),
        *("train.patience=0", "model.window=20"),
    ],
)


def export_walks(folder: Path, *changes: str) -> Path:
    """Train with these changes, in ``run``, and export; the bundle's folder."""
    train_any(override(SMALL, list(changes)), walks(), folder / "run")
    export_retrieval_bundle(folder / "run", walks(), folder / "bundle", name="walker")
    return folder / "bundle"


@functools.cache
def exported_walks() -> Path:
    """The bundle of ``SMALL``, made once in a process; the run is beside it."""
    return export_walks(folder_of_this_process())
