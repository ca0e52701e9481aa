"""Read MovieLens-1M from disk: the original folder or zip, or the chronological ``movielens_1m`` folder.

The original holds ``ratings.dat``, ``users.dat`` and ``movies.dat`` (``::`` between fields, Latin-1).
The chronological one holds ``ratings_chrono.csv.gz`` with columns ``user_id,movie_id,rating,
timestamp,exact,ts_lo,ts_hi``, and the other two files gzipped.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recsys.arrays import BoolArray, Int64Array
from recsys.data.sources.raw_log import MOVIELENS_1M, RawLog
from recsys.errors import DataFileError
from recsys.features.feature_set import Categorical
from recsys.features.values import MAX_TIME_MS

ReadFile = Callable[[str], tuple[str, bytes]]
"""File name -> how to call it in messages, and its uncompressed bytes."""

_CHRONO = "ratings_chrono.csv.gz"
_CHRONO_COLUMNS = ["user_id", "movie_id", "rating", "timestamp", "exact", "ts_lo", "ts_hi"]
_RATING_COLUMNS = ["user_id", "movie_id", "rating", "timestamp"]
_YEAR = re.compile(r"\((\d{4})\)\s*\Z")
_MAX_GENRES = next(f.max_values for f in MOVIELENS_1M.item if isinstance(f, Categorical) and f.name == "genres")


def read_movielens(path: Path) -> RawLog:
    """Read the log from a folder or zip.

    Raises:
        DataFileError: nothing of the kind is there, or a file is malformed, cut short, or names a
            user or movie that does not exist: which file, which line, what was expected.
    """
    if path.is_dir():
        if (path / _CHRONO).is_file():
            return _read_chronological(path)
        return _read_original(lambda name: _from_folder(path, name), path)
    if not path.exists():
        raise DataFileError(f"{path}: does not exist; expected MovieLens-1M: a folder or ml-1m.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_original(lambda name: _from_zip(archive, path, name), path)
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataFileError(f"{path}: not a zip file, damaged or cut short: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ratings:
    """The text of a ratings file, and how its lines look.

    ``first_line`` is the number of the first line of ``text``; ``expected`` says in messages what
    ``pattern`` says to the machine.
    """

    file: str
    text: bytes
    first_line: int
    pattern: re.Pattern[bytes]
    expected: str


def _read_original(read: ReadFile, path: Path) -> RawLog:
    file, text = read("ratings.dat")
    ratings = _Ratings(
        file=file,
        text=text,
        first_line=1,
        pattern=re.compile(rb"\d+::\d+::\d+::\d+\r?"),
        expected="user::movie::rating::timestamp (integers)",
    )
    # pyarrow takes only one character between fields.
    columns = _read_columns(ratings, text.replace(b"::", b"\t"), "\t", _RATING_COLUMNS)
    users, items = _read_users(*read("users.dat")), _read_movies(*read("movies.dat"))
    return _join(ratings, columns, users, items, source=f"MovieLens-1M from {path}")


def _read_chronological(path: Path) -> RawLog:
    file, data = _from_gzip(path, _CHRONO)
    header, _, text = data.partition(b"\n")
    if header.rstrip(b"\r").decode("latin-1").split(",") != _CHRONO_COLUMNS:
        raise DataFileError(f"{file}: line 1: expected {','.join(_CHRONO_COLUMNS)}, found {_shown(header)}")
    ratings = _Ratings(
        file=file,
        text=text,
        first_line=2,
        pattern=re.compile(rb"\d+,\d+,\d+,\d+,[01],\d*,\d*\r?"),
        expected=f"{','.join(_CHRONO_COLUMNS)} (integers; the last two may be empty)",
    )
    columns = _read_columns(ratings, text, ",", _CHRONO_COLUMNS)
    users, items = _read_users(*_from_gzip(path, "users.dat.gz")), _read_movies(*_from_gzip(path, "movies.dat.gz"))
    estimated = int(np.count_nonzero(columns["exact"] == 0))
    source = f"MovieLens-1M from {path}"
    if estimated:
        source += f" ({estimated:,} of {len(columns['exact']):,} timestamps are estimated)"
    return _join(ratings, columns, users, items, source=source)


def _join(
    ratings: _Ratings,
    columns: dict[str, Int64Array],
    users: dict[str, Any],
    items: dict[str, Any],
    *,
    source: str,
) -> RawLog:
    rating, timestamp_s = columns["rating"], columns["timestamp"]
    checks: list[tuple[BoolArray, str, str]] = [
        ((rating < 1) | (rating > 5), "rating", "a rating from 1 to 5"),
        (timestamp_s > MAX_TIME_MS // 1000, "timestamp", "seconds since 1970"),
        (~np.isin(columns["user_id"], users["user_id"]), "user_id", "a user of users.dat"),
        (~np.isin(columns["movie_id"], items["movie_id"]), "movie_id", "a movie of movies.dat"),
    ]
    for wrong, name, expected in checks:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataFileError(
                f"{ratings.file}: line {row + ratings.first_line}: expected {expected}, "
                f"found {name} {columns[name][row]}; lines are {ratings.expected}"
            )
    return RawLog(
        users=users,
        items=items,
        user=columns["user_id"],
        item=columns["movie_id"],
        rating=rating.astype(np.uint8),
        timestamp_ms=timestamp_s * 1000,
        source=source,
    )


def _read_columns(ratings: _Ratings, text: bytes, delimiter: str, names: list[str]) -> dict[str, Int64Array]:
    """Columns of integers, fast; when that fails, the first bad line is found slowly and named."""
    if not ratings.text.endswith(b"\n"):
        number = ratings.text.count(b"\n") + ratings.first_line
        raise DataFileError(f"{ratings.file}: line {number}: cut short: expected {ratings.expected} and a line end")
    used = [name for name in names if not name.startswith("ts_")]
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(text),
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(used, pa.int64()), include_columns=used, null_values=[]
            ),
        )
        columns: dict[str, Int64Array] = {name: table[name].to_numpy() for name in used}
        if all(int(column.min()) >= 0 for column in columns.values()):
            return columns
        reason = "found a negative number"
    except pa.ArrowInvalid as error:
        reason = str(error)
    for number, line in _lines(ratings.text, ratings.first_line):
        if not ratings.pattern.fullmatch(line):
            raise DataFileError(f"{ratings.file}: line {number}: expected {ratings.expected}, found {_shown(line)}")
    raise DataFileError(f"{ratings.file}: expected lines {ratings.expected}: {reason}")


def _read_users(file: str, data: bytes) -> dict[str, Any]:
    expected = "user::gender::age::occupation::zip with gender M or F"
    users: dict[str, list[Any]] = {name: [] for name in ("user_id", "gender", "age", "occupation", "zip")}
    seen: dict[int, int] = {}
    for number, line in _lines(data, 1):
        fields = line.decode("latin-1").rstrip("\r").split("::")
        if len(fields) != 5 or fields[1] not in ("M", "F") or not _integers(fields[0], *fields[2:4]) or not fields[4]:
            raise DataFileError(f"{file}: line {number}: expected {expected}, found {_shown(line)}")
        users["user_id"].append(_new_id(file, number, fields[0], seen))
        users["gender"].append(fields[1])
        users["age"].append(int(fields[2]))
        users["occupation"].append(int(fields[3]))
        users["zip"].append(fields[4])
    return users


def _read_movies(file: str, data: bytes) -> dict[str, Any]:
    expected = f"movie::title::genre|genre|... with 1 to {_MAX_GENRES} genres"
    items: dict[str, list[Any]] = {name: [] for name in ("movie_id", "title", "main_genre", "genres", "year")}
    seen: dict[int, int] = {}
    for number, line in _lines(data, 1):
        fields = line.decode("latin-1").rstrip("\r").split("::")
        genres = fields[-1].split("|")
        if len(fields) != 3 or not _integers(fields[0]) or not all(genres) or len(genres) > _MAX_GENRES:
            raise DataFileError(f"{file}: line {number}: expected {expected}, found {_shown(line)}")
        year = _YEAR.search(fields[1])
        items["movie_id"].append(_new_id(file, number, fields[0], seen))
        items["title"].append(fields[1])
        items["main_genre"].append(genres[0])
        items["genres"].append(genres)
        items["year"].append(int(year[1]) if year else None)
    return items


def _new_id(file: str, number: int, field: str, seen: dict[int, int]) -> int:
    """The id of a line, which no line before may have; ``seen`` maps ids to their lines."""
    found = int(field)
    if (first := seen.setdefault(found, number)) != number:
        raise DataFileError(f"{file}: line {number}: expected a new id, found {found}, which line {first} has")
    return found


def _lines(data: bytes, first_line: int) -> Iterator[tuple[int, bytes]]:
    return enumerate(data.removesuffix(b"\n").split(b"\n"), start=first_line)


def _integers(*fields: str) -> bool:
    return all(f.isascii() and f.isdigit() and len(f) <= 18 for f in fields)


def _shown(line: bytes) -> str:
    text = line.decode("latin-1")
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _from_folder(path: Path, name: str) -> tuple[str, bytes]:
    try:
        return str(path / name), (path / name).read_bytes()
    except FileNotFoundError as error:
        raise DataFileError(
            f"{path / name}: does not exist; expected MovieLens-1M: {_CHRONO}, users.dat.gz and movies.dat.gz, "
            "or ratings.dat, users.dat and movies.dat"
        ) from error
    except OSError as error:  # a folder of that name, or not ours to read
        raise DataFileError(f"{path / name}: cannot be read: {error.strerror}") from error


def _from_gzip(path: Path, name: str) -> tuple[str, bytes]:
    file, data = _from_folder(path, name)
    try:
        return file, gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(f"{file}: damaged or cut short; expected a complete gzip file: {error}") from error


def _from_zip(archive: zipfile.ZipFile, path: Path, name: str) -> tuple[str, bytes]:
    member = f"ml-1m/{name}"
    if member not in archive.namelist():
        found = ", ".join(archive.namelist()[:3]) or "nothing"
        raise DataFileError(f"{path}: not MovieLens-1M: expected {member} inside, found {found}")
    try:
        return f"{path}/{member}", archive.read(member)
    except (RuntimeError, NotImplementedError) as error:  # zipfile's for encrypted files and unknown compressions
        raise DataFileError(f"{path}: {member} cannot be read: {error}; expected the published ml-1m.zip") from error
