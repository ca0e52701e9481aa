"""Deployment: what a reader says of theirs. Every argument has a unit, a default and bounds, in one table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

FORMATS = ("fp32", "fp16", "int8", "int4")
COMPUTES = ("float32", "int8")
IDS_PER_USER = 5.0
"""Default ids: a billion for 200 M users."""
ITEMS_PER_USER = 0.1
RANK_PER_USER = 0.001
"""Default Rank calls/s: 200,000 for 200 M users."""
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Argument:
    """Meaning, unit and bounds of a field; ``whole``: it is a count."""

    unit: str
    low: float
    high: float
    meaning: str
    whole: bool = False


ARGUMENTS: dict[str, Argument] = {
    "users": Argument("users", 1_000, 1e10, "users with a history in the store", whole=True),
    "ids": Argument(
        "ids", 1_000, 1e12, "ids with a row of their own in a table, of all tables; default: 5 a user", True
    ),
    "items": Argument("items", 1, 1e10, "in the store and in retrieval; default: one for each 10 users", whole=True),
    "rank_per_s": Argument("calls/s", 0.01, 1e8, "Rank calls at the peak; default: 1 for each 1,000 users"),
    "candidates": Argument("candidates", 1, 10_000, "of a Rank call", whole=True),
    "answered": Argument("candidates", 0, 10_000, "top_k of a Rank call; 0: all scores are answered", whole=True),
    "events_per_user": Argument("events", 1, 1_000_000, "kept of each user (max_events)", whole=True),
    "events_per_user_day": Argument("events/day", 0.001, 100_000, "new events of a user, in the mean"),
    "event_bytes": Argument("bytes", 24, 4_064, "a stored event: 24 and its attributes (`recsys features show`)", True),
    "recent": Argument(
        "events", 1, 1_000_000, "the history's `recent`: events that a model reads, at most", whole=True
    ),
    "short": Argument("events", 0, 10_000, "of these, events that it reads one by one", whole=True),
    "state_numbers": Argument(
        "numbers", 0, 10_000_000, "numbers of a long history's state: signatures x buckets x width; 0: no state", True
    ),
    "user_row_bytes": Argument(
        "bytes", 8, 100_000, "a user's stored features: 8, and 8 for an id, 4 for a number", True
    ),
    "item_row_bytes": Argument("bytes", 8, 100_000, "an item's, as a user's", whole=True),
    "cached_items": Argument("share", 0, 1, "of candidates whose features are in the server's cache"),
    "dim": Argument("numbers", 1, 4_096, "width of a table's rows", whole=True),
    "utilisation": Argument("share", 0.05, 1, "of a core that is planned to be busy at the peak"),
    "peak_over_mean": Argument("ratio", 1, 100, "new events and calls at the peak, over their mean"),
    "headroom": Argument("ratio", 1, 10, "Redis memory planned for, over what is stored today"),
    "redis_gb": Argument("GB", 0.1, 10_000, "data that one Redis is to hold at most"),
    "redis_replicas": Argument("replicas", 0, 5, "of each primary", whole=True),
    "host_cores": Argument("cores", 1, 1_024, "of a ranker's host, a worker on each", whole=True),
    "host_memory_gb": Argument("GB", 1, 100_000, "memory of a ranker's host"),
    "host_gbit": Argument("Gbit/s", 0.1, 3_200, "network of a host"),
    "log_share": Argument("share", 0, 1, "of Rank calls in the request log (`--log-requests`)"),
    "log_days": Argument("days", 1, 3_650, "that request logs are kept"),
    "releases_kept": Argument("releases", 1, 1_000, "in the store of releases (`prune --keep`)", whole=True),
    "samples_per_event": Argument("samples", 0.0001, 100, "training samples for each event"),
    "vectors_per_event": Argument("rows", 1, 100, "rows looked up for an event of a sample's history", whole=True),
    "distinct_rows": Argument("share", 0.0001, 1, "of a batch's looked-up rows that are distinct: others are shared"),
    "gpu_samples_per_s": Argument("samples/s", 0, 1e9, "one GPU trains, as you measured it; 0: derived from bounds"),
    "gpu_gb": Argument("GB", 1, 10_000, "memory of a GPU"),
    "gpu_tflops": Argument("TFLOP/s", 0.1, 100_000, "float32 products of a GPU"),
    "gpu_gb_per_s": Argument("GB/s", 10, 1_000_000, "a GPU's memory"),
    "gpu_link_gb_per_s": Argument("GB/s", 0.1, 100_000, "of a GPU to the other GPUs of its host of eight, each way"),
    "gpu_network_gb_per_s": Argument("GB/s", 0.1, 100_000, "of a GPU to other hosts, each way"),
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployment's size. ``ARGUMENTS`` says what each number is, and what is allowed.

    Raises:
        ValueError: a number is out of bounds, or two do not go together; the argument is named.
    """

    users: float
    ids: float
    items: float
    rank_per_s: float
    candidates: float = 500
    answered: float = 50
    events_per_user: float = 1_000
    events_per_user_day: float = 10.0
    event_bytes: float = 33
    recent: float = 1_000
    short: float = 50
    state_numbers: float = 16 * 8 * 64
    user_row_bytes: float = 48
    item_row_bytes: float = 48
    cached_items: float = 0.95
    dim: float = 32
    format: str = "fp32"
    compute: str = "float32"
    utilisation: float = 0.6
    peak_over_mean: float = 3.0
    headroom: float = 1.5
    redis_gb: float = 50.0
    redis_replicas: float = 1
    host_cores: float = 32
    host_memory_gb: float = 256.0
    host_gbit: float = 25.0
    log_share: float = 0.01
    log_days: float = 30.0
    releases_kept: float = 5
    samples_per_event: float = 1.0
    vectors_per_event: float = 2
    distinct_rows: float = 1.0
    gpu_samples_per_s: float = 0.0
    gpu_gb: float = 80.0
    gpu_tflops: float = 60.0
    gpu_gb_per_s: float = 3_000.0
    gpu_link_gb_per_s: float = 450.0
    gpu_network_gb_per_s: float = 50.0

    def __post_init__(self) -> None:
        for name, argument in ARGUMENTS.items():
            check(name, getattr(self, name), argument)
        for name, choices in (("format", FORMATS), ("compute", COMPUTES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{option(name)}: {getattr(self, name)!r}; allowed: {', '.join(choices)}")
        for name, most in (("recent", "events_per_user"), ("short", "recent"), ("answered", "candidates")):
            if getattr(self, name) > getattr(self, most):
                raise ValueError(
                    f"{option(name)}: {getattr(self, name):,.15g} is more than {option(most)} "
                    f"{getattr(self, most):,.15g}; allowed: at most that"
                )
        if self.ids < self.users + self.items:
            raise ValueError(
                f"--ids: {self.ids:,.15g} ids for {self.users:,.15g} users and {self.items:,.15g} items; "
                "allowed: at least one for each"
            )

    @property
    def long(self) -> bool:
        """A model of this deployment keeps states: it has some, and histories are longer than what is read anyway."""
        from recsys.serving.long_history.states import SLACK

        return self.state_numbers > 0 and self.events_per_user > self.short + SLACK

    def sizes(self) -> dict[str, float | str]:
        """Every number by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def deployment(users: float, numbers: Mapping[str, float | str]) -> Deployment:
    """One of so many users. What is not given follows: ids and calls grow with the users, and parts fit the whole."""
    check("users", users, ARGUMENTS["users"])
    given = dict(numbers)
    given.setdefault("ids", IDS_PER_USER * users)
    given.setdefault("items", ITEMS_PER_USER * users)
    given.setdefault("rank_per_s", RANK_PER_USER * users)
    for name, most in (("recent", "events_per_user"), ("short", "recent"), ("answered", "candidates")):
        usual, limit = getattr(Deployment, name), given.get(most, getattr(Deployment, most))
        given.setdefault(name, min(usual, limit))
    return Deployment(users=users, **given)  # type: ignore[arg-type]


def scaled(size: Deployment, users: float) -> Deployment:
    """The same with so many users, and ids, items and calls in proportion.

    Raises:
        ValueError: one of them is out of bounds then.
    """
    by = users / size.users
    items = max(1.0, float(round(by * size.items)))
    ids = max(float(round(by * size.ids)), users + items)
    return replace(size, users=users, items=items, ids=ids, rank_per_s=by * size.rank_per_s)


def check(name: str, value: float, argument: Argument) -> None:
    """ValueError with the argument's name unless its value is allowed."""
    allowed = f"allowed: {'whole numbers' if argument.whole else 'numbers'} from {argument.low:,.15g} to "
    allowed += f"{argument.high:,.15g} {argument.unit}"
    if not math.isfinite(value) or not argument.low <= value <= argument.high:
        raise ValueError(f"{option(name)}: {value:,.15g}; {allowed}")
    if argument.whole and value != int(value):
        raise ValueError(f"{option(name)}: {value:,.15g}; {allowed}")


def number(text: str) -> float:
    """A number as people write it.

    >>> [number(text) for text in ("200M", "1B", "1e9", "200,000", "0.5")]
    [200000000.0, 1000000000.0, 1000000000.0, 200000.0, 0.5]

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(-?[0-9][0-9,_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|-?\.[0-9]+)([kMBGT]?)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no number; allowed: such as 200000, 200,000, 2e5, 200k, 50M, 1B")
    return float(re.sub("[,_]", "", match[1])) * _SUFFIXES[match[2]]


def option(name: str) -> str:
    """Name on the command line."""
    return "--" + name.replace("_", "-")
