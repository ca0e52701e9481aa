"""Files of a request log (``serving/handlers/request_log.py`` writes them), opened and recognised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import DataFileError
from recsys.features.feature_set import FeatureSet

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def open_request_log(path: Path) -> tuple[pq.ParquetFile, FeatureSet]:
    """Open one file of a request log; gives the FeatureSet of the model that answered, too.

    Raises:
        DataFileError: it is no Parquet file, or no request log.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataFileError(f"{path}: not a Parquet file: {error}") from error
    return file, logged_features(path, file)


def logged_features(path: Path, file: pq.ParquetFile) -> FeatureSet:
    """The FeatureSet of the model that answered the requests of a file; raises DataFileError if it is no log."""
    metadata = file.schema_arrow.metadata or {}
    if b"recsys.features" not in metadata:
        raise DataFileError(f"{path}: not a request log; `recsys serve --log-requests` writes one")
    try:
        text = metadata[b"recsys.features"].decode()
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: a damaged request log: its FeatureSet is no text: {error}") from error
    return FeatureSet.from_json(text)
