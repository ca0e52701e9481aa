"""A run of any model that ranks all items: trained step by step on pairs (``loop.py``) or histories (``two_tower/``),
or in closed form (``linear/``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from recsys.data.interactions.pairs import Interactions
from recsys.models.registry import CLOSED_FORMS, SEQUENCE_MODELS
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.linear.run import train_closed_form
from recsys.training.retrieval.loop import RetrievalProgress, RetrievalRunResult, train_retrieval_run
from recsys.training.retrieval.two_tower.run import train_two_tower


def train_any(
    config: RetrievalRunConfig,
    interactions: Interactions,
    run_dir: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    report: Callable[[RetrievalProgress], None] = lambda progress: None,
    show_notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> RetrievalRunResult:
    """Train, validate, test, and write everything to ``run_dir``; as ``train_retrieval_run``, for every model."""
    train = train_closed_form if config.model.kind in CLOSED_FORMS else train_retrieval_run
    if config.model.kind in SEQUENCE_MODELS:
        train = train_two_tower
    return train(
        config, interactions, run_dir, resume=resume, overrides=overrides, report=report, show_notes=show_notes
    )
