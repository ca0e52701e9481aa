"""Memory that tables may fill: the machine's, or that of this process's control group."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path

from recsys.bundle import Bundle

_FILLED = 0.9
"""Share of the memory that tables may fill; the rest is that of the processes."""


def larger_than_memory(bundle: Bundle) -> bool:
    """Test if a bundle's tables need more memory than the system, or this process's control group, can give them."""
    return tables_bytes(bundle) > min(_available_bytes(), group_limit_bytes())


def two_fit(size_bytes: int) -> bool:
    """Test if the tables of two releases of this size have room in memory at a time, as in a switch."""
    return 2 * size_bytes <= _FILLED * min(_total_bytes(), group_limit_bytes())


def tables_bytes(bundle: Bundle) -> int:
    """Bytes of a bundle's table files."""
    return sum(size for name, (size, _) in bundle.manifest.files.items() if name.startswith("tables/"))


def group_limit_bytes(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """The least memory limit of the control groups that this process is in; no limit where there is none.

    Pages of files count against it, so that a container's page cache is smaller than its machine's.
    """
    try:
        entries = [entry.split(":", 2) for entry in groups.read_text().splitlines()]
    except OSError:
        return math.inf
    limit = math.inf
    for _, controllers, path in entries:
        if controllers not in ("", "memory"):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = top / path.lstrip("/")
        # Within a container the group's own path may lie outside what is mounted: then the top is its group.
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                with contextlib.suppress(OSError, ValueError):  # no such group; "max"
                    limit = min(limit, int((folder / name).read_text()))
    return limit


def _available_bytes() -> float:
    """Memory that Linux could give to the page cache; no limit where it does not say."""
    return _memory_bytes("MemAvailable")


def _total_bytes() -> float:
    """Memory of the machine; no limit where it does not say."""
    return _memory_bytes("MemTotal")


def _memory_bytes(fact: str) -> float:
    try:
        facts = Path("/proc/meminfo").read_text()
    except OSError:
        return math.inf
    found = re.search(rf"^{fact}: +(\d+) kB", facts, re.MULTILINE)
    return 1024 * int(found[1]) if found else math.inf
