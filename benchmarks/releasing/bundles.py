"""Bundles of the reference model that differ in one thing, each exported once: that takes ten seconds of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common import say

if TYPE_CHECKING:
    from recsys.training.trained import TrainedModel


def variant(folder: Path, name: str, *, items: int, hashed: bool = False) -> Path:
    """The reference bundle (``base``), or one with another ``network``, or with other ``tables`` of items.

    Args:
        folder: of bundles that are there.
        name: of the variant.
        items: rows of the item table, of 128 bytes.
        hashed: items have no id map but are hashed to so many rows.
    """
    from harness.reference import change_items, change_network, export_reference

    changes: dict[str, Callable[[TrainedModel], None]] = {
        "base": lambda _: None,
        "network": change_network,
        "tables": change_items,
    }
    path = folder / f"{name}-{items}{'-hashed' if hashed else ''}"
    if not path.exists():
        say(f"exporting the reference model: {name}, {items:,} items")
        export_reference(path, items=items, hashed_rows=items if hashed else 0, change=changes[name])
    return path
