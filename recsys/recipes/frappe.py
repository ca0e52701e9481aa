"""Frappe, click prediction by the published split (NFM, SIGIR 2017; BARS Frappe_x1)."""

from __future__ import annotations

from recsys.models.dcn import DcnConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig


def dcn_frappe() -> RunConfig:
    """DCN-V2 on user, app and context."""
    return RunConfig(
        recipe="dcn_frappe",
        data=DataConfig(dataset="frappe"),
        model=DcnConfig(cross_layers=3, head=(400, 400), structure="parallel", dropout=0.2),
        tables=TableConfig(dim=16, learning_rate=0.3, regularization=0.02),
        rows=RowConfig(min_count=1, exact_below=100),
        train=TrainConfig(epochs=7),
    )
