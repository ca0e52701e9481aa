"""Limits: the simplest part that does a job, how much of it a deployment wants, and what takes its place."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

from sizing import memory, serving, store, training
from sizing.amounts import Amount
from sizing.deployment import FORMATS, Deployment, scaled
from sizing.recorded import Recorded

CLUSTER_SERVERS = 1_000
"""Redis Cluster is specified for up to so many nodes (its specification, "Redis Cluster goals")."""
CLIENTS = 10_000
"""Redis's default `maxclients`."""
TABLE_ROWS = 2**31 - 1
"""Modulus of the hash of row maps (`embeddings/row_maps/hashing.py`)."""
RETRIEVE_MS, DAY_HOURS = 50.0, 24.0


@dataclass(frozen=True)
class Limit:
    """A part, and the share of it that is wanted: above 1 it breaks.

    Attributes:
        name: the part.
        wanted: share of what it gives.
        gives: in words.
        replacement: what takes its place.
    """

    name: str
    wanted: Amount
    gives: str
    replacement: str


def limits(size: Deployment, recorded: Recorded) -> list[Limit]:
    """All, the one that is wanted most first: so, with all growing alike, they break in this order."""
    per_primary, redis_cores = store.data_tb(size) * (1e3 * size.headroom / size.redis_gb), store.cores(size, recorded)
    by_memory, by_processor = store.primaries(size, recorded)
    servers = by_memory.or_more(by_processor) * (1 + size.redis_replicas)
    workers = serving.hosts(size, recorded) * size.host_cores
    appended = Amount(store.appends_per_s(size)) / recorded["ingest_per_s"]
    day = Amount(training.day_samples(size)) / training.cpu_per_s(size, recorded)
    table = size.ids * (4 * size.dim + 4) / 1e9
    found = [
        Limit("one Redis: memory", per_primary, f"{size.redis_gb:g} GB, `--redis-gb`", "a Redis Cluster"),
        Limit(
            "one Redis: processor",
            redis_cores / size.utilisation,
            f"a core, {size.utilisation:.0%} busy",
            "a Redis Cluster",
        ),
        Limit(
            "one Redis Cluster",
            servers / CLUSTER_SERVERS,
            f"{CLUSTER_SERVERS:,} servers",
            "several stores, each with the rankers of a part of the users",
        ),
        Limit(
            "connections to a Redis",
            store.connections(size, workers) / CLIENTS,
            f"{CLIENTS:,}, Redis's default; {store.CONNECTIONS} a worker at most",
            "more `maxclients`; then rankers that each serve a part of the users",
        ),
        Limit(
            "one ranker host",
            serving.cores(size, recorded) / size.host_cores,
            f"{size.host_cores:g} cores",
            "more hosts, each with all tables, behind a load balancer",
        ),
        Limit(
            f"a host's memory, {size.format}",
            memory.host_gb(size, size.format, recorded) / size.host_memory_gb,
            f"{size.host_memory_gb:g} GB",
            _smaller(size, recorded),
        ),
        Limit("rows of one table", Amount(size.ids / TABLE_ROWS), "2^31 - 1 rows", "several tables, or shared rows"),
        Limit("one machine that prepares", training.prepare_hours(size, recorded) / DAY_HOURS, "24 h", "Spark"),
        Limit(
            "one `recsys ingest`",
            appended / size.utilisation,
            f"a core, {size.utilisation:.0%} busy",
            "a process for each partition of the topic",
        ),
        Limit(
            "one trainer of two cores",
            day * (1 / 3600 / DAY_HOURS),
            "a day's events in 24 h",
            "GPUs, tables sharded by TorchRec",
        ),
        Limit(
            "one GPU: tables",
            Amount(table / (training.TABLES_SHARE * size.gpu_gb)),
            f"{training.TABLES_SHARE:.0%} of {size.gpu_gb:g} GB",
            "tables sharded by TorchRec over GPUs, or in host memory (`tables.uvm_cache`)",
        ),
        Limit(
            "exact retrieval",
            serving.retrieve_ms(size, recorded) / RETRIEVE_MS,
            f"{RETRIEVE_MS:g} ms of a core",
            "parts of the items on several hosts, or a coarse code first: neither is built",
        ),
        Limit(
            "a host's network",
            serving.host_gbit(size, recorded) / size.host_gbit,
            f"{size.host_gbit:g} Gbit/s",
            "more, smaller hosts",
        ),
    ]
    return sorted(found, key=lambda limit: -limit.wanted.value)


def breaking_points(size: Deployment, recorded: Recorded) -> dict[str, tuple[float, float, float]]:
    """Users at which each part breaks, all else in proportion: by the plan, at the earliest, at the latest.

    Infinite beyond what a deployment may have.
    """
    users, wanted = [], []
    for count in (round(10 ** (n / 20)) for n in range(60, 201)):
        with contextlib.suppress(ValueError):
            wanted.append({limit.name: limit.wanted for limit in limits(scaled(size, float(count)), recorded)})
            users.append(float(count))
    return {
        name: (
            _crossing(users, [each[name].value for each in wanted]),
            _crossing(users, [each[name].high for each in wanted]),
            _crossing(users, [each[name].low for each in wanted]),
        )
        for name in (wanted[0] if wanted else ())
    }


def _crossing(users: list[float], wanted: list[float]) -> float:
    """Users at which a rising course passes 1; between two points it is a power of them."""
    for i, share in enumerate(wanted):
        if share > 1:
            if i == 0:
                return users[0]
            before = math.log(wanted[i - 1])
            part = -before / (math.log(share) - before)
            return users[i - 1] * (users[i] / users[i - 1]) ** part
    return math.inf


def _smaller(size: Deployment, recorded: Recorded) -> str:
    """The first smaller format that fits, or that none does."""
    smaller = FORMATS[FORMATS.index(size.format) + 1 :]
    for kind in smaller:
        if (needed := memory.host_gb(size, kind, recorded).value) <= size.host_memory_gb:
            return f"{kind}: {needed:,.0f} GB"
    return "rows that ids share (`recsys compress`); then tables over several hosts, which is not built"
