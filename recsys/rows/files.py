"""Raw files: which there are, of which format, and their bytes, unpacked."""

from __future__ import annotations

import glob
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from recsys.errors import DataFileError

FileFormat = Literal["parquet", "csv", "tsv", "jsonl"]

_ENDINGS: dict[str, FileFormat] = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_PACKED = (".gz", ".zst")
_PATTERN = frozenset("*?[")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file.

    Attributes:
        path: of it.
        format: of its rows.
        packed: ``.gz``, ``.zst`` or nothing.
    """

    path: Path
    format: FileFormat
    packed: str = ""

    @property
    def may_grow(self) -> bool:
        """True if its last line may still be under way: of a packed file or a Parquet file the end is known."""
        return self.format != "parquet" and not self.packed


def endings() -> str:
    """Endings of the files that are read, for messages."""
    return f"{', '.join(_ENDINGS)}, all but Parquet also with {' or '.join(_PACKED)}"


def find_files(given: Sequence[str]) -> tuple[list[RawFile], list[str]]:
    """Files, folders and patterns to their files, each in the order of their names.

    A path that exists is that file or folder, whatever letters it has; only other paths are patterns. A folder is
    searched for known endings, not recursively; its name and those above it say nothing about the rows.

    Returns:
        the files, and for each pattern a sentence on what it matched.

    Raises:
        DataFileError: nothing is there, or of a format that is not read.
    """
    files: list[RawFile] = []
    said: list[str] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            found = [p for p in path.iterdir() if _format(p) and p.is_file() and not p.name.startswith((".", "_"))]
            nothing = "the folder holds no such file"
        elif path.exists():
            found, nothing = [path], ""
        elif _PATTERN & set(name):
            found = [p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file()]
            nothing = "no such file, and as a pattern it matches none"
            if found:
                said.append(f"{name} matched {_count(found)}: {_few(sorted(found))}")
        else:
            found, nothing = [], "no such file or folder"
        if not found:
            raise DataFileError(f"{name}: {nothing}; allowed: files, folders or patterns of {endings()}")
        files += [raw_file(path) for path in sorted(found)]
    return files, said


def raw_file(path: Path) -> RawFile:
    """File of a path, its format from its ending.

    Raises:
        DataFileError: the ending is unknown.
    """
    kind = _format(path)
    if kind is None:
        raise DataFileError(f"{path}: unknown format; allowed endings: {endings()}")
    packed = path.suffix.lower() if path.suffix.lower() in _PACKED else ""
    return RawFile(path=path, format=kind, packed=packed)


def open_bytes(file: RawFile) -> IO[bytes]:
    """The file's bytes, unpacked.

    Raises:
        DataFileError: it is UTF-16, or packed in a way that this installation cannot unpack.
        OSError: it cannot be opened.
    """
    if file.packed == ".gz":
        return gzip.open(file.path)  # type: ignore[return-value]
    if file.packed == ".zst":
        try:
            import pyarrow as pa
        except ImportError as error:
            raise DataFileError(f"{file.path}: .zst files need pyarrow; pip install 'recsys[parquet]'") from error
        return pa.input_stream(str(file.path), compression="zstd")  # type: ignore[no-any-return]
    return open(file.path, "rb")


def unpack_errors() -> tuple[type[Exception], ...]:
    """Errors that reading a damaged packed file raises."""
    import zlib

    return (EOFError, gzip.BadGzipFile, zlib.error, OSError, ValueError)


def check_start(start: bytes, where: str) -> None:
    """Refuse text that is not UTF-8 by its first bytes.

    Raises:
        DataFileError: it is UTF-16 or UTF-32.
    """
    if start.startswith(_UTF16) or b"\0" in start[:4]:
        raise DataFileError(f"{where}: is UTF-16 or UTF-32, or no text; allowed: UTF-8 (iconv -f UTF-16 -t UTF-8)")


def _format(path: Path) -> FileFormat | None:
    name = path.name.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    kind = _ENDINGS.get(Path(name).suffix)
    return None if kind == "parquet" and name != path.name.lower() else kind


def _count(paths: Sequence[Path]) -> str:
    return "1 file" if len(paths) == 1 else f"{len(paths):,} files"


def _few(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:5])
    return shown if len(paths) <= 5 else f"{shown}, ..."
