"""A data set in our form, made once and kept: an event table and samples of it, in one folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from recsys.data.log.event_table import EncodedTable, open_event_table, save_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import Samples, open_samples, write_samples


def prepared_dataset(folder: Path, encode: Callable[[], tuple[EncodedTable, Samples]]) -> Dataset:
    """The dataset in ``folder``, made if it is not there, or only in part.

    Args:
        folder: named by a hash of all that ``encode`` depends on.
        encode: makes it, the same at every call.
    """
    events, samples = folder / "events", folder / "samples"
    # Whoever finishes a folder first is as good as this process: both write the same bytes.
    if not (events.is_dir() and samples.is_dir()):
        table, made = encode()
        with suppress(FileExistsError):
            save_event_table(table, events)
        with suppress(FileExistsError):
            write_samples(made, samples)
    return make_dataset(open_event_table(events), open_samples(samples))
