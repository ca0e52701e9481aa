"""A folder of .npy columns and a ``meta.json``: how the offline side keeps arrays on disk.

``meta.json`` holds ``kind``, ``version``, ``columns`` (name -> dtype and shape) and ``info``
(whatever the kind needs). Column ``user.age`` is the file ``user.age.npy``. Columns are
memory-mapped when opened, so opening costs the same for a thousand rows and for a billion.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from recsys.errors import DataFileError
from recsys.files import make_folder, sync, temporary_path, writing

META = "meta.json"


class FolderWriter:
    """Columns written piece by piece, in memory of one piece; made by :func:`folder_writer`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    @property
    def folder(self) -> Path:
        """Place of the columns until the folder is finished; for files of other kinds beside them."""
        return self._folder

    def append(self, name: str, rows: npt.NDArray[Any]) -> None:
        """Add rows to a column; every piece has the dtype and the inner shape of the first."""
        if name not in self._files:
            self._files[name] = open(self._folder / f"{name}.npy", "wb")
            self._layout[name] = (rows.dtype, (0, *rows.shape[1:]))
            self._write_header(name)
        dtype, (length, *inner) = self._layout[name]
        assert (rows.dtype, rows.shape[1:]) == (dtype, tuple(inner)), name
        self._layout[name] = (dtype, (length + len(rows), *inner))
        self._files[name].write(np.ascontiguousarray(rows).data if rows.size else b"")

    def column(self, name: str) -> npt.NDArray[Any]:
        """Memory-map a column as far as it is written."""
        self._write_header(name)
        return _open_column(self._folder / f"{name}.npy", *self._layout[name])

    def finish(self, *, kind: str, version: int, info: Mapping[str, Any]) -> None:
        """Write ``meta.json`` and have everything survive a power cut."""
        for name, file in self._files.items():
            self._write_header(name)
            os.fsync(file.fileno())
        layout = {name: {"dtype": d.str, "shape": list(shape)} for name, (d, shape) in self._layout.items()}
        meta = {"kind": kind, "version": version, "columns": layout, "info": dict(info)}
        with open(self._folder / META, "w", encoding="utf-8") as text:
            json.dump(meta, text, indent=1)
            text.flush()
            os.fsync(text.fileno())

    def close(self) -> None:
        """Close the files, finished or not: all of them, also where one finds no room for its last bytes."""
        with ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    def _write_header(self, name: str) -> None:
        # NumPy pads the header so that the first axis may grow in place.
        dtype, shape = self._layout[name]
        file = self._files[name]
        file.seek(0)
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        file.seek(0, os.SEEK_END)
        file.flush()


@contextmanager
def folder_writer(path: Path) -> Iterator[FolderWriter]:
    """A writer into a new folder, to be finished within the block; removed when the block fails.

    Raises:
        FileExistsError: ``path`` exists.
        ConfigError: the folder around it cannot be written.
    """
    with new_folder(path) as temporary:
        writer = FolderWriter(temporary)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well, and is removed otherwise.

    Raises:
        FileExistsError: ``path`` exists, or another process finished it first.
        ConfigError: the folder around it cannot be written.
        NoSpaceError: there is no room.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: remove it first")
    make_folder(path.parent)
    temporary = temporary_path(path)
    try:
        with writing(path):
            temporary.mkdir()
            yield temporary
        try:
            os.rename(temporary, path)
        except OSError as error:
            if not path.exists():
                raise
            raise FileExistsError(f"{path} was written by another process meanwhile") from error
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_columns(
    path: Path, columns: Mapping[str, npt.NDArray[Any]], *, kind: str, version: int, info: Mapping[str, Any]
) -> None:
    """Write a folder that either exists complete or not at all.

    Args:
        path: must not exist; its parents are made.
        columns: arrays of any dtype and shape but ().
        kind, version: checked again by :func:`open_columns`.
        info: JSON values.

    Raises:
        FileExistsError: ``path`` exists, or another process finished it first.
        ConfigError: the folder around it cannot be written.
    """
    with folder_writer(path) as writer:
        for name, column in columns.items():
            writer.append(name, np.asarray(column))
        writer.finish(kind=kind, version=version, info=info)


def open_columns(path: Path, *, kind: str, version: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Memory-map a folder written by :func:`write_columns`.

    Returns:
        The columns, read-only, and ``info``.

    Raises:
        DataFileError: not such a folder, another kind or version, or a column that is missing,
            cut short, or of another dtype or shape than ``meta.json`` says.
    """
    meta = _read_meta(path / META, kind)
    if meta.get("kind") != kind:
        raise DataFileError(f"{path / META}: expected kind {kind!r}, found {meta.get('kind')!r}")
    if meta.get("version") != version:
        raise DataFileError(
            f"{path / META}: {kind} format {meta.get('version')!r}, but this program reads format {version}: "
            "prepare the data again"
        )
    try:
        layout = {name: (np.dtype(c["dtype"]), tuple(c["shape"])) for name, c in meta["columns"].items()}
        info = dict(meta["info"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataFileError(f"{path / META}: expected 'columns' and 'info': {error!r}") from error
    return {name: _open_column(path / f"{name}.npy", *expected) for name, expected in layout.items()}, info


def _read_meta(path: Path, kind: str) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataFileError(f"{path.parent}: not a folder of kind {kind!r}: {META} is missing") from error
    except ValueError as error:
        again = f"delete the folder {path.parent} and prepare the data again"
        raise DataFileError(f"{path}: expected JSON: {error}; {again}") from error
    if not isinstance(meta, dict):
        raise DataFileError(f"{path}: expected a JSON object, found {type(meta).__name__}")
    return meta


def _open_column(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    expected = f"expected {dtype} of shape {list(shape)}"
    again = f"delete the folder {path.parent} and prepare the data again"
    try:
        # An empty file cannot be memory-mapped, and an empty array need not be.
        # asarray drops the memmap subclass (slower to index) and keeps the mapping.
        column = np.asarray(np.load(path, mmap_mode="r" if 0 not in shape else None))
    except FileNotFoundError as error:
        raise DataFileError(f"{path}: column is missing; {expected}; {again}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataFileError(f"{path}: column is damaged or cut short; {expected}: {error}; {again}") from error
    if column.dtype != dtype or column.shape != shape:
        raise DataFileError(f"{path}: {expected}, found {column.dtype} of shape {list(column.shape)}; {again}")
    return column
