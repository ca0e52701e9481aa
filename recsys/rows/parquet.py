"""Columns of Parquet files, held against the contract before a row is read."""

from __future__ import annotations

import pyarrow as pa

from recsys.errors import DataFileError
from recsys.rows.arrow import takes
from recsys.rows.contract import RowContract


def check_schema(contract: RowContract, schema: pa.Schema, *, where: str) -> tuple[str, ...]:
    """Columns of a Parquet file that are to be read.

    Raises:
        DataFileError: one is missing, unknown, or of a type no value of which fits.
    """
    names = contract.check_header(schema.names, where=where)
    for name in names:
        for field in contract.fields_of(name):
            if not takes(field, schema.field(name).type):
                raise DataFileError(
                    f"{where}: column {name!r} is {schema.field(name).type}; expected {field.wants}: cast it, or "
                    "change its declaration"
                )
    return names
