"""Item columns of a server: the folder that its workers share, and the follower and the reader of each of them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from recsys.errors import ConfigError
from recsys.files import kept_folder, locked
from recsys.serving.item_columns.columns import STALE_S, ItemColumns
from recsys.serving.item_columns.follower import ColumnFollower
from recsys.serving.process.stores import Stores
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry

_PREFIX = "recsys-columns-"
_BEGINNING_S = 60.0
_FIRST_S = 2.0
"""Longest wait for the columns of a server that starts, before it answers without some items' values."""


@contextlib.contextmanager
def columns_in(settings: Settings) -> Iterator[Path]:
    """Make the folder for the duration of a ``with`` block.

    Raises:
        ConfigError: it cannot be made in ``item_columns_dir``.
    """
    within = settings.item_columns_dir
    _remove_leftovers(Path(tempfile.gettempdir() if within is None else within))
    try:
        made = kept_folder(_PREFIX, within=within)
        folder = made.__enter__()
    except OSError as error:
        raise ConfigError(
            f"item_columns_dir (RECSYS_ITEM_COLUMNS_DIR) is {str(within)!r}: {error.strerror}; allowed: a folder that "
            "can be written"
        ) from error
    with contextlib.ExitStack() as stack:
        stack.push(made)
        yield folder


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed servers left: a server holds its folder's lock; one that has just begun may not yet."""
    for left in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _BEGINNING_S:
                with locked(left):
                    shutil.rmtree(left)


@contextlib.contextmanager
def followed_columns(
    folder: Path, stores: Stores, settings: Settings, *, finds: bool, telemetry: Telemetry | None = None
) -> Iterator[tuple[ItemColumns, ColumnFollower]]:
    """Open the columns and have them follow the store, for the duration of a ``with`` block, which begins when there
    are some, or could be none, or after 2 s.

    Args:
        folder: that the workers share.
        stores: read for them.
        settings: the server's.
        finds: there is a retrieval model, or may be one: withdrawn items count.
        telemetry: gets times from writes to their effect; None for none.
    """

    def enabled() -> bool:
        features = stores.features
        counts = features.history is not None and features.history.trending is not None
        return bool(features.filterable()) or ((finds or counts) and bool(features.item))

    def applied(ms: int) -> None:
        if telemetry is not None:
            telemetry.observe_time("item_attribute_seconds", us=ms * 1000)

    columns = ItemColumns(folder, enabled=enabled)
    follower = ColumnFollower(
        folder,
        lambda: stores.features,
        stores.blocking_store,
        limit_bytes=settings.max_item_columns_mib << 20,
        enabled=enabled,
        on_applied=applied,
    )
    with contextlib.closing(follower):
        if enabled():
            follower.tried.wait(_FIRST_S)
        yield columns, follower


def column_gauges(columns: ItemColumns, follower: ColumnFollower) -> Mapping[str, Callable[[], int]]:
    """Gauges of the columns: what is the same for all workers only the one that writes tells."""

    def of_writer(read: Callable[[], int]) -> Callable[[], int]:
        return lambda: read() if follower.writes else 0

    return {
        "item_columns_age_seconds": of_writer(lambda: int(min(columns.state.age_s, 1e6))),
        "item_columns_behind": lambda: int(columns.enabled() and columns.state.age_s > STALE_S),
        "item_columns_items": of_writer(lambda: columns.items),
        "item_columns_bytes": of_writer(lambda: columns.size_bytes),
        "item_columns_left_out": of_writer(lambda: columns.state.left_out),
        "withdrawn_items": of_writer(lambda: columns.withdrawn),
    }
