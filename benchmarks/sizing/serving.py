"""Ranker: cores and hosts, network by hop, the request log, exact retrieval."""

from __future__ import annotations

from sizing import memory, store
from sizing.amounts import Amount
from sizing.deployment import Deployment
from sizing.needs import Need
from sizing.recorded import Recorded

REFERENCE_DIM = 32
"""Width of the tables of the model that ``rank.*`` is measured with (``harness/reference.py``)."""
LOG_SHARE = Amount(1.0, 0.3, 1.4)
"""A logged call as Parquet over its numbers: items of a Zipf distribution took .34, numbers that never repeat 1.3."""
_GBIT = 8 / 1e9
_ATTRIBUTES_BYTES = 8


def suffix_of(size: Deployment) -> str:
    """End of the names of constants of this arithmetic."""
    return ".int8" if size.compute == "int8" else ""


def rank_ms(size: Deployment, recorded: Recorded) -> Amount:
    """A core's time for a call.

    Recorded is a call of so many candidates, and the bare graphs for it. A call of more costs at least what the server
    adds and the graphs in proportion, and at most all in proportion, with which to plan. One of fewer costs no more
    than the recorded one. Tables of another width change the products that read them in proportion, and others not.
    """
    end = suffix_of(size)
    rate, recorded_c = recorded[f"rank_per_core{end}"], recorded.number(f"rank_candidates{end}")
    whole_ms = Amount(1e3 * recorded_c) / rate
    bare_ms = 1e3 * recorded_c / recorded.number(f"rank_bare{end}")
    share = size.candidates / recorded_c
    ratios = sorted([share, (max(0.0, whole_ms.value - bare_ms) + bare_ms * share) / whole_ms.value])
    wider = size.dim / REFERENCE_DIM
    low, high = ratios[0] * min(1.0, wider), max(ratios[1], float(share < 1)) * max(1.0, wider)
    return Amount(whole_ms.value * ratios[1] * max(1.0, wider), whole_ms.low * low, whole_ms.high * high)


def worker_share(size: Deployment, recorded: Recorded) -> Amount:
    """A worker's speed beside others over its speed alone.

    Two workers, callers and Redis shared two cores; what the last two took is known from the run with one worker. At
    best, 1: where nothing is shared.
    """
    two = recorded["two_workers"]
    others = 1 + (1 - recorded.number("rank_other_idle"))
    value, low = (min(1.0, n * others / 2) for n in (two.value, two.low))
    return Amount(value, low, 1.0)


def cores(size: Deployment, recorded: Recorded) -> Amount:
    """For the peak, each busy as planned."""
    busy = rank_ms(size, recorded) * (size.rank_per_s / 1e3)
    return busy / size.utilisation / worker_share(size, recorded)


def hosts(size: Deployment, recorded: Recorded) -> Amount:
    """With a worker on each core."""
    return (cores(size, recorded) / size.host_cores).whole()


def message_bytes(size: Deployment) -> dict[str, int]:
    """Lengths of a Rank call's messages, by making them."""
    from recsys.proto import ranker_pb2

    count, answered = int(size.candidates), int(size.answered or size.candidates)
    request = ranker_pb2.RankRequest(
        user=ranker_pb2.Id(integer=int(size.users)),
        candidates=ranker_pb2.Ids(integers=range(count)),
        top_k=int(size.answered),
    )
    answer = ranker_pb2.RankResponse(
        scores=[0.5] * answered,
        positions=range(answered) if size.answered else [],
        model="din_movielens",
        model_version="0" * 16,
        history_events=int(size.events_per_user),
        release="din-0123456789abcdef",
    )
    return {"request": request.ByteSize(), "answer": answer.ByteSize()}


def append_bytes(size: Deployment) -> int:
    """Length of a call that appends one event, its attributes as ids, by making it."""
    from recsys.proto import feature_store_pb2, ranker_pb2

    one = ranker_pb2.Ids(integers=[1])
    count = -(-int(size.event_bytes - 24) // _ATTRIBUTES_BYTES)
    columns = feature_store_pb2.EventColumns(
        items=one, timestamps_ms=[1], attributes={f"attribute_{i}": one for i in range(count)}
    )
    user = ranker_pb2.Id(integer=int(size.users))
    return int(feature_store_pb2.AppendEventsRequest(user=user, events=columns).ByteSize())


def log_bytes(size: Deployment) -> float:
    """A call in the request log, before Parquet: what the model read as 8-byte numbers, and scores.

    Of a long history these are the newest events, item and attributes without their times.
    """
    read = store.read_bytes(size)["history"] / size.event_bytes
    numbers = 1 + max(0.0, size.event_bytes - 24) / _ATTRIBUTES_BYTES
    features = max(0.0, size.item_row_bytes - 8)
    return 8 * read * numbers + size.candidates * (8 + features + 4) + size.user_row_bytes + 100


def retrieve_ms(size: Deployment, recorded: Recorded) -> Amount:
    """Exact search of all items on one core."""
    return recorded["retrieve_ms"] * (size.items / recorded.number("retrieve_items"))


def host_gbit(size: Deployment, recorded: Recorded) -> Amount:
    """A host's network at the peak: calls and reads, both ways together."""
    messages = message_bytes(size)
    each = sum(messages.values()) + store.sum_of_reads(size)
    return Amount(each * size.rank_per_s * _GBIT) / hosts(size, recorded)


def needs(size: Deployment, recorded: Recorded) -> list[Need]:
    """Cores, hosts, network, log, retrieval."""
    end = suffix_of(size)
    of_rank = tuple(f"{name}{end}" for name in ("rank_per_core", "rank_candidates", "rank_bare"))
    of_cores = (*of_rank, "two_workers", "rank_other_idle")
    messages, reads = message_bytes(size), store.read_bytes(size)
    logged_gb = log_bytes(size) * size.rank_per_s / size.peak_over_mean * size.log_share * store.DAY_S / 1e9
    all_memory = hosts(size, recorded) * memory.host_gb(size, size.format, recorded) * 1e-3
    logged = LOG_SHARE
    appended_bytes = store.appends_per_s(size) * size.event_bytes
    states_bytes = store.states_written_per_s(size) * reads["state"]
    return [
        Need("rank_ms", rank_ms(size, recorded), "ms", "CPU of a call: candidates / candidates a core ranks", of_rank),
        Need(
            "ranker_cores",
            cores(size, recorded),
            "cores",
            "calls/s x CPU / utilisation / speed beside others",
            of_cores,
        ),
        Need("ranker_hosts", hosts(size, recorded), "hosts", "cores / cores of a host", of_cores),
        Need("ranker_memory_tb", all_memory, "TB", "hosts x memory of a host: each has the tables"),
        Need("request_bytes", Amount(messages["request"]), "B", "RankRequest: 8 a candidate"),
        Need("answer_bytes", Amount(messages["answer"]), "B", "RankResponse: a score and a place of each answered"),
        *(Need(f"read_bytes.{name}", Amount(count), "B", "from Redis for a call") for name, count in reads.items()),
        Need(
            "calls_gbit",
            Amount(sum(messages.values()) * size.rank_per_s * _GBIT),
            "Gbit/s",
            "callers and rankers, both ways",
        ),
        Need("reads_gbit", Amount(sum(reads.values()) * size.rank_per_s * _GBIT), "Gbit/s", "Redis to rankers"),
        Need("host_gbit", host_gbit(size, recorded), "Gbit/s", "of both, a host's", of_cores),
        Need("append_bytes", Amount(append_bytes(size)), "B", "AppendEventsRequest of one event"),
        Need("appends_gbit", Amount(append_bytes(size) * store.appends_per_s(size) * _GBIT), "Gbit/s", "of new events"),
        Need(
            "states_gbit", Amount(states_bytes * _GBIT), "Gbit/s", "states written back, one for 32 new events at most"
        ),
        Need(
            "replication_gbit",
            Amount((appended_bytes + states_bytes) * size.redis_replicas * _GBIT),
            "Gbit/s",
            "records and states to replicas",
        ),
        Need(
            "log_kb_call",
            logged * (log_bytes(size) / 1e3),
            "kB",
            "inputs and scores; popular items take less as Parquet",
        ),
        Need("log_gb_day", logged * logged_gb, "GB/day", "share logged of the mean of calls"),
        Need("log_tb", logged * logged_gb * (size.log_days / 1e3), "TB", "while logs are kept"),
        Need(
            "retrieve_ms",
            retrieve_ms(size, recorded),
            "ms",
            "exact search of all items on one core",
            ("retrieve_ms", "retrieve_items"),
        ),
    ]
