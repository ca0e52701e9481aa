"""Frappe, click prediction by the published split (NFM, SIGIR 2017; BARS Frappe_x1).

What decides here is how strongly the rows are pulled to zero, in a network whose hidden units are normalised over the
batch: FuxiCTR's published runs do both, pulling the whole table at every step.
"""

from __future__ import annotations

from recsys.models.ranking.autoint import AutoIntConfig
from recsys.models.ranking.dcn import DcnConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig


def dcn_frappe() -> RunConfig:
    """DCN-V2 on user, app and context."""
    return RunConfig(
        recipe="dcn_frappe",
        data=DataConfig(dataset="frappe"),
        model=DcnConfig(cross_layers=3, head=(400, 400), structure="parallel", batch_norm=True, dropout=0.2),
        tables=TableConfig(dim=16, learning_rate=0.3, regularization=0.1),
        rows=RowConfig(min_count=1, exact_below=100, spare_rows=0.0),
        train=TrainConfig(epochs=8),
    )


def autoint_frappe() -> RunConfig:
    """AutoInt on user, app and context."""
    return RunConfig(
        recipe="autoint_frappe",
        data=DataConfig(dataset="frappe"),
        model=AutoIntConfig(layers=3, attention_width=64, heads=4, scale=True, field_norm=True, layer_norm=True),
        tables=TableConfig(dim=16, learning_rate=0.3, regularization=0.2),
        rows=RowConfig(min_count=1, spare_rows=0.0),
        train=TrainConfig(epochs=10, learning_rate=5e-3, weight_decay=0.1),
    )


def autoint_plus_frappe() -> RunConfig:
    """AutoInt+ on user, app and context: an MLP beside the attention."""
    return RunConfig(
        recipe="autoint_plus_frappe",
        data=DataConfig(dataset="frappe"),
        model=AutoIntConfig(layers=2, attention_width=32, heads=2, head=(400, 400), batch_norm=True, dropout=0.2),
        tables=TableConfig(dim=16, learning_rate=0.3, regularization=0.2),
        rows=RowConfig(min_count=1, spare_rows=0.0),
        train=TrainConfig(epochs=12),
    )
