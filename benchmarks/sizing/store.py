"""Redis: bytes of users and items from the definition of the stored layout, commands, and how many servers that takes.

A history that has reached its cap has its newest events in one string, which Redis gave twice what it needed when it
grew, and the rest in sealed chunks (``docs/specs/redis_format.md``). ``tests/benchmarks/test_capacity.py`` holds the
sums to the bytes that a real Redis takes, and to the recorded ones.
"""

from __future__ import annotations

import math
from functools import lru_cache

from recsys.feature_store.redis.values.history import HistoryValue
from recsys.feature_store.redis.values.state import HEADER_BYTES as STATE_HEADER
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import HEADER
from recsys.serving.long_history.states import SLACK, WRITE_AFTER
from sizing.amounts import Amount, total
from sizing.deployment import Deployment
from sizing.needs import TB, Need
from sizing.recorded import Recorded

KEY_BYTES, ROW_KEY_BYTES, EXPIRY_BYTES, LIST_SHARE = 130, 110, 85, 1.01
"""Redis's own (docs/operate/scaling.md): a history's or state's key, a row's, an expiry; a list over its chunks."""
_READ_COMMANDS = 6
"""Of a Rank call: user row, state, two GETRANGE, LLEN, and MGET of items that are not cached."""
CONNECTIONS = 2 * 16
"""Of a worker to a Redis at most: 16 for the store's calls, and as many for Rank requests (docs/operate/redis.md)."""
DAY_S = 86_400


@lru_cache
def chunk_events(event_bytes: int, recent: int, max_events: int) -> int:
    """Events of a sealed chunk, as the store would choose them for such a history."""
    wide, narrow = divmod(event_bytes - 24, 8)
    attributes = [Categorical(name=f"wide_{i}") for i in range(wide)]
    attributes += [Categorical(name=f"narrow_{i}", storage="u8") for i in range(narrow)]
    history = History(attributes=tuple(attributes), max_events=max_events, recent=recent)
    user, item = Categorical(name="user"), Categorical(name="thing")
    return HistoryValue(FeatureSet(name="sizing", user_id=user, item_id=item, history=history)).chunk


def history_bytes(size: Deployment) -> Amount:
    """A user's history in Redis: as it is loaded at once; at its cap, grown by appends; at its largest."""
    events, width = size.events_per_user, size.event_bytes
    chunk = chunk_events(int(width), int(size.recent), int(events))

    def stored(open_events: float, room: float, sealed_events: float) -> float:
        open_bytes = room * (HEADER.size + open_events * width) + KEY_BYTES
        return open_bytes + (LIST_SHARE * sealed_events * width + KEY_BYTES if sealed_events > 0 else 0)

    loaded = max(0, events // chunk - 1) * chunk
    least = stored(events - loaded, 1, loaded)
    usual = stored(chunk + 1, 2, events - chunk)
    # A string grows at the first append after it was halved: by then it has batches of up to a fifth of a chunk more.
    most = stored(1.4 * chunk, 2, (math.ceil(events / chunk) - 1) * chunk)
    return Amount(usual, min(least, usual), max(most, usual))


def state_bytes(size: Deployment) -> float:
    """A user's state of a long history in Redis; 0 where there is none."""
    return STATE_HEADER + 2 * size.state_numbers + KEY_BYTES + EXPIRY_BYTES if size.long else 0.0


def data_tb(size: Deployment) -> Amount:
    """All users and items, once."""
    user = history_bytes(size) + Amount(size.user_row_bytes + ROW_KEY_BYTES + state_bytes(size))
    items = Amount(size.items * (size.item_row_bytes + ROW_KEY_BYTES))
    return (user * size.users + items) * (1 / TB)


def read_bytes(size: Deployment) -> dict[str, float]:
    """Payload of a Rank call's one round trip to Redis, by what it is."""
    tail = size.short + SLACK if size.long else size.recent
    chunk = chunk_events(int(size.event_bytes), int(size.recent), int(size.events_per_user))
    return {
        "history": 2 * HEADER.size + min(tail, chunk if size.long else tail) * size.event_bytes,
        "state": STATE_HEADER + 2 * size.state_numbers if size.long else 0.0,
        "rows": size.user_row_bytes + size.candidates * (1 - size.cached_items) * size.item_row_bytes,
    }


def appends_per_s(size: Deployment) -> float:
    """New events at the peak."""
    return size.users * size.events_per_user_day / DAY_S * size.peak_over_mean


def cores(size: Deployment, recorded: Recorded) -> Amount:
    """Redis cores busy at the peak.

    A Rank call's reads took less than all that callers and Redis did on their core, and a call that appends one event
    less than its client waited: the upper ends, with which to plan. No command takes less than a bare one of a long
    pipeline: the lower ends. `recsys ingest`, which sends many at once, is near these.
    """
    suffix = ".int8" if size.compute == "int8" else ""
    calls_per_s = recorded.number(f"rank_per_core{suffix}") / recorded.number(f"rank_candidates{suffix}")
    read_s = (1 - recorded.number(f"rank_other_idle{suffix}")) / calls_per_s
    command_s = 1 / recorded.number("commands_per_s")
    append_s = max(command_s, recorded.number("append_us") / 1e6)
    reads = Amount(
        max(read_s, _READ_COMMANDS * command_s), _READ_COMMANDS * command_s, max(read_s, _READ_COMMANDS * command_s)
    )
    return reads * size.rank_per_s + Amount(append_s, command_s, append_s) * appends_per_s(size)


def primaries(size: Deployment, recorded: Recorded) -> tuple[Amount, Amount]:
    """For memory; for processors."""
    memory = data_tb(size) * (size.headroom * TB / 1e9 / size.redis_gb)
    return memory.whole(), (cores(size, recorded) / size.utilisation).whole()


def connections(size: Deployment, workers: Amount) -> Amount:
    """Of all workers to one Redis, if each opens as many as it may; one each at least."""
    return Amount(workers.value * CONNECTIONS, workers.low, workers.high * CONNECTIONS)


def states_written_per_s(size: Deployment) -> float:
    """States that servers write at the peak, at most: one for each so many new events."""
    return appends_per_s(size) / WRITE_AFTER if size.long else 0.0


def needs(size: Deployment, recorded: Recorded) -> list[Need]:
    """Bytes, commands, servers, new events, states made anew."""
    memory, processor = primaries(size, recorded)
    servers = memory.or_more(processor)
    events = size.users * size.events_per_user
    all_tb = data_tb(size) * (size.headroom * (1 + size.redis_replicas))
    state_s = (
        recorded.number("precompute_s") / recorded.number("precompute_users") / recorded.number("precompute_events")
    )
    suffix = ".int8" if size.compute == "int8" else ""
    of_core = tuple(f"{name}{suffix}" for name in ("rank_per_core", "rank_candidates", "rank_other_idle"))
    commands = size.rank_per_s * _READ_COMMANDS + appends_per_s(size)
    return [
        Need(
            "history_kb_user",
            history_bytes(size) * 1e-3,
            "kB",
            "the stored layout; loaded at once, grown, at its largest",
        ),
        Need(
            "state_kb_user", Amount(state_bytes(size) / 1e3), "kB", "80 B, 2 B a number, key and expiry; one bundle's"
        ),
        Need(
            "states_tb",
            Amount(size.users * state_bytes(size) / TB),
            "TB",
            "of one bundle; another state version doubles it",
        ),
        Need("redis_data_tb", data_tb(size), "TB", "histories, states, rows of users and items, once"),
        Need("redis_memory_tb", all_tb, "TB", "data x headroom x (1 + replicas)"),
        Need(
            "redis_commands_per_s",
            Amount(commands),
            "commands/s",
            f"{_READ_COMMANDS} a Rank call, 1 an event, at the peak",
        ),
        Need(
            "redis_cores",
            cores(size, recorded),
            "cores",
            "busy at the peak",
            (*of_core, "append_us", "commands_per_s"),
        ),
        Need("redis_primaries.memory", memory, "primaries", "data x headroom / what one is to hold"),
        Need("redis_primaries.processor", processor, "primaries", "cores / utilisation", (*of_core, "append_us")),
        Need("redis_servers", servers * (1 + size.redis_replicas), "servers", "the larger of both, and replicas"),
        Need("events_per_s", Amount(appends_per_s(size)), "events/s", "new events at the peak"),
        Need(
            "ingest_cores",
            (Amount(appends_per_s(size)) / recorded["ingest_per_s"] / size.utilisation),
            "cores",
            "`recsys ingest` of them",
            ("ingest_per_s",),
        ),
        Need(
            "load_core_hours",
            Amount(events) / recorded["ingest_per_s"] / 3600,
            "h",
            "all kept events through `recsys ingest`, one core",
            ("ingest_per_s",),
        ),
        Need(
            "states_core_hours",
            Amount(events * state_s / 3600 if size.long else 0.0),
            "h",
            "all states made anew, at a low priority beside a server: at most",
            ("precompute_s", "precompute_users", "precompute_events"),
        ),
    ]


def sum_of_reads(size: Deployment) -> float:
    """Payload of a Rank call's reads."""
    return total([Amount(n) for n in read_bytes(size).values()]).value
