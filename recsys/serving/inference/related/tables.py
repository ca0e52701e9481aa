"""Tables of a bundle that no graph reads, mapped, and looked up by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.bundle import Bundle
from recsys.errors import BundleError


def map_tables(bundle: Bundle, prefix: str, dtypes: Mapping[str, str]) -> dict[str, npt.NDArray[Any]] | None:
    """Map the one-dimensional tables ``<prefix>.<name>``; None if the bundle has none of them.

    Args:
        bundle: whose they are.
        prefix: begins their names.
        dtypes: name -> dtype, for every table.

    Raises:
        BundleError: one is missing, of another type or of more dimensions, or cannot be mapped.
    """
    infos = {name: bundle.manifest.tables.get(f"{prefix}.{name}") for name in dtypes}
    if all(info is None for info in infos.values()):
        return None
    found: dict[str, npt.NDArray[Any]] = {}
    for name, info in infos.items():
        if info is None or info.dtype != dtypes[name] or len(info.shape) != 1:
            had = "none" if info is None else f"{info.dtype} {list(info.shape)}"
            raise BundleError(
                f"{bundle.path}: table {prefix + '.' + name!r}: expected {dtypes[name]}, one dimension; found {had}: "
                "export the bundle again"
            )
        dtype = np.dtype(dtypes[name]).newbyteorder("<")
        if not info.shape[0]:  # an empty file cannot be mapped
            found[name] = np.empty(0, dtype=dtype)
            continue
        try:
            found[name] = np.asarray(np.memmap(bundle.path / info.file, dtype=dtype, mode="r", shape=info.shape))
        except (OSError, ValueError) as error:
            raise BundleError(f"{bundle.path / info.file}: cannot be mapped: {error}") from error
    return found


def check_begins(bundle: Bundle, prefix: str, keys: Int64Array, begins: Int64Array, entries: int) -> None:
    """Refuse keys that do not ascend, or lists that do not lie one behind another in ``entries``.

    Raises:
        BundleError: so it is.
    """
    fits = len(begins) == len(keys) + 1 and begins[0] == 0 and begins[-1] == entries
    if not fits or (begins[1:] < begins[:-1]).any() or (keys[1:] <= keys[:-1]).any():
        raise BundleError(
            f"{bundle.path}: tables '{prefix}.keys' and '{prefix}.begins' do not fit each other or their lists: export "
            "the bundle again"
        )


def places_of(keys: Int64Array, wanted: Int64Array) -> tuple[Int64Array, BoolArray]:
    """Find where each key is among ascending ones, and if it is there; int64 and bool, [N].

    >>> places_of(np.array([3, 8]), np.array([8, 5]))
    (array([1, 1]), array([ True, False]))
    """
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, np.asarray(keys[place] == wanted)
