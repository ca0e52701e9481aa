"""Memory of tables and hosts, and the disk of releases."""

from __future__ import annotations

import math

from sizing.amounts import Amount
from sizing.deployment import FORMATS, Deployment
from sizing.needs import GB, Need
from sizing.recorded import Recorded

BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
_ROWS = ("int8_row", "row_width")
_MAP = ("map_kib", "map_ids")
WORKER = ("workers_gb", "workers_table_gb", "supervisor_gb")
_RECORDED_WORKERS = 4


def row_bytes(kind: str, dim: float, recorded: Recorded) -> float:
    """A row's bytes: its numbers, and what the recorded row of that kind has beside its numbers (scale and bias)."""
    codes = math.ceil(dim * BITS[kind] / 8)
    if kind == "fp32":
        return codes
    width = recorded.number("row_width")
    return codes + recorded.number(f"{kind}_row") - math.ceil(width * BITS[kind] / 8)


def table_gb(size: Deployment, kind: str, recorded: Recorded) -> float:
    """All rows."""
    return size.ids * row_bytes(kind, size.dim, recorded) / GB


def map_gb(size: Deployment, recorded: Recorded) -> Amount:
    """Exact id maps; hashed rows need none."""
    each = 1024 * recorded.number("map_kib") / recorded.number("map_ids")
    return Amount(size.ids * each / GB, 0.0, size.ids * each / GB)


def worker_gb(recorded: Recorded) -> float:
    """Memory that a worker does not share."""
    whole, table, supervisor = (recorded.number(name) for name in WORKER)
    return (whole - table - supervisor) / _RECORDED_WORKERS


def shared_gb(size: Deployment, kind: str, recorded: Recorded) -> Amount:
    """Tables and id maps, which all workers of a host map once."""
    return Amount(table_gb(size, kind, recorded)) + map_gb(size, recorded)


def host_gb(size: Deployment, kind: str, recorded: Recorded) -> Amount:
    """A host with a worker on each core, while it switches to a release with other tables.

    Both releases' pages are wanted then. With memory for the first one and a part of the other no call fails, but calls
    read from the disk meanwhile.
    """
    limit = recorded.number("switch_limit")
    return shared_gb(size, kind, recorded) * Amount(2.0, limit, 2.0) + Amount(size.host_cores * worker_gb(recorded))


def needs(size: Deployment, recorded: Recorded) -> list[Need]:
    """Tables in each format, a host, the store of releases."""
    shared = shared_gb(size, size.format, recorded)
    release_gb = Amount(shared.value)
    return [
        *(
            Need(
                f"table_gb.{kind}",
                Amount(table_gb(size, kind, recorded)),
                "GB",
                f"ids x {row_bytes(kind, size.dim, recorded):g} B",
                () if kind == "fp32" else (f"{kind}_row", "row_width"),
            )
            for kind in FORMATS
        ),
        Need("id_map_gb", map_gb(size, recorded), "GB", "exact maps, 0 where rows are hashed", _MAP),
        Need(
            f"host_gb.{size.format}",
            host_gb(size, size.format, recorded),
            "GB",
            "2 x (tables and maps), for a switch, and workers; at least "
            f"{recorded.number('switch_limit'):g} x, read from disk meanwhile",
            (*_ROWS, *_MAP, *WORKER, "switch_limit"),
        ),
        Need("release_gb", release_gb, "GB", "tables and maps in the chosen format", (*_ROWS, *_MAP)),
        Need(
            "releases_tb",
            Amount(
                (size.releases_kept + 1) * release_gb.value / 1e3,
                min(2, size.releases_kept + 1) * release_gb.value / 1e3,
            ),
            "TB",
            "those kept and one more; two where the rest share their tables",
            (*_ROWS, *_MAP),
        ),
        Need(
            "push_s",
            Amount(8 * release_gb.value / size.host_gbit),
            "s",
            "a release to a host, at all of its network",
            (*_ROWS, *_MAP),
        ),
    ]
