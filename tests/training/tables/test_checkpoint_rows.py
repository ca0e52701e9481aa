"""Rows of checkpoints whose tables are in parts: by rows, by columns, in files of several processes."""

from __future__ import annotations

import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.embeddings.row_maps.growth import RowChange
from recsys.training.run.checkpoint import Checkpoint, load, write_index
from recsys.training.tables.checkpoint_rows import parts_of_tables, rows_of_table, updated_rows, with_changes

WHOLE = torch.arange(40, dtype=torch.float32).view(10, 4)
SUMS = torch.arange(1, 11, dtype=torch.float32)


def part(rows: slice, columns: slice = slice(0, 4)) -> dict[str, object]:
    state = {"sum": SUMS[rows].clone()}
    weights = WHOLE[rows, columns].clone()
    return {"table": "t", "row": rows.start, "column": columns.start, "weights": weights, "state": state}


SPLITS = {
    "whole": [[part(slice(0, 10))]],
    "by rows": [[part(slice(0, 6))], [part(slice(6, 10))]],
    "by columns": [[part(slice(0, 10), slice(0, 2))], [part(slice(0, 10), slice(2, 4))]],
}


@pytest.fixture(params=SPLITS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    """A table of 10 rows; each list of parts is the file of a process, unless there is but one."""
    split = SPLITS[request.param]
    files = {}
    if len(split) > 1:
        (tmp_path / "checkpoint").mkdir()
        for number, parts in enumerate(split):
            file = tmp_path / "checkpoint" / f"{number}.pt"
            torch.save(parts, file)
            files[file.name] = {"size_bytes": file.stat().st_size, "parts": []}
    made = Checkpoint(
        step=3,
        tables={"t": [10, 4]},
        files=files,
        parts=[] if files else split[0],
        dense={},
        dense_optimizer={},
        loader={},
        random=[],
    )
    write_index(made, tmp_path / "checkpoint.pt")
    return load(tmp_path / "checkpoint.pt")


def test_rows_are_those_of_the_whole_table(checkpoint: Checkpoint) -> None:
    rows = np.array([9, 0, 6, 5, 0])
    found = rows_of_table(parts_of_tables(checkpoint)["t"], rows, dim=4)
    assert found.tolist() == WHOLE[rows].tolist()


def test_changed_rows_are_means_of_old_ones_and_have_no_state(checkpoint: Checkpoint, tmp_path: Path) -> None:
    change = RowChange(table="t", rows_R=np.array([7, 1]), sources_RS=np.array([[1, 2], [9, 9]]))
    write_index(with_changes(checkpoint, [change]), tmp_path / "new.pt")
    new = load(tmp_path / "new.pt")
    assert new.files == {} and new.step == 3
    expected = WHOLE.clone()
    expected[7] = (WHOLE[1] + WHOLE[2]) / 2
    expected[1] = WHOLE[9]
    parts = parts_of_tables(new)["t"]
    assert rows_of_table(parts, np.arange(10), dim=4).tolist() == expected.tolist()
    updated = updated_rows(parts, rows=10)
    assert updated is not None and np.flatnonzero(~updated).tolist() == [1, 7]
    # The old one stays as it is.
    assert rows_of_table(parts_of_tables(checkpoint)["t"], np.arange(10), dim=4).tolist() == WHOLE.tolist()
    assert updated_rows(parts_of_tables(checkpoint)["t"], rows=10).all()  # type: ignore[union-attr]


def test_a_changed_table_is_not_written_twice_where_tables_share_their_memory(tmp_path: Path) -> None:
    both = torch.zeros(2000, 16)  # as FBGEMM holds the tables of one kernel
    parts = [
        {"table": name, "row": 0, "column": 0, "weights": weights, "state": {}}
        for name, weights in zip("ab", both.split(1000), strict=True)
    ]
    sizes = {"a": [1000, 16], "b": [1000, 16]}
    made = Checkpoint(step=3, tables=sizes, files={}, parts=parts, dense={}, dense_optimizer={}, loader={}, random=[])
    write_index(made, tmp_path / "checkpoint.pt")
    change = RowChange(table="a", rows_R=np.array([7]), sources_RS=np.array([[1]]))
    write_index(with_changes(load(tmp_path / "checkpoint.pt"), [change]), tmp_path / "new.pt")
    assert (tmp_path / "new.pt").stat().st_size < both.nbytes + 10_000


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(checkpoint: Checkpoint, tmp_path: Path) -> None:
    large = replace(checkpoint, dense={"weight": torch.zeros(100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_index(large, tmp_path / "checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert load(tmp_path / "checkpoint.pt").dense == {}
    assert not list(tmp_path.glob(".checkpoint.pt.tmp*"))


def test_an_optimizer_without_state_says_nothing_about_updates(checkpoint: Checkpoint) -> None:
    stateless = [{**each, "state": {}} for each in parts_of_tables(checkpoint)["t"]]
    assert updated_rows(stateless, rows=10) is None
