"""The log and training: hours on the recorded CPU, and on GPUs from bounds, for nothing of GPUs is recorded."""

from __future__ import annotations

from sizing.amounts import Amount
from sizing.deployment import Deployment
from sizing.needs import GB, TB, Need
from sizing.recorded import Recorded

GPUS = (8, 16, 32, 64)
_HOST_GPUS = 8
_LENGTHS = (50, 200, 1000, 2000)
_STEPS = tuple(f"step_ms_{length}" for length in _LENGTHS)
_OPTIMISER_BYTES = 4
"""Row-wise Adagrad: a number for each row."""
TABLES_SHARE = 0.8
"""Of a GPU's memory for tables; the rest is the batch's."""
_TABLE_PASSES = 3
"""A looked-up row is read, and read and written by the update."""
_EXCHANGES = 2
"""Vectors go to the GPU of the sample, gradients back."""
_BOUNDS = ("matmul_ms", "matmul_batch", "matmul_threads", "gflops_core")


def log_tb(size: Deployment, recorded: Recorded) -> float:
    """Every kept event, as `recsys prepare` reads them: uncompressed columns."""
    each = recorded.number("prepare_log_gb") * GB / recorded.number("prepare_events")
    return size.users * size.events_per_user * each / TB


def prepare_hours(size: Deployment, recorded: Recorded) -> Amount:
    """`recsys prepare` of all of it, on one machine of two cores."""
    return Amount(log_tb(size, recorded) * 1e6) / recorded["prepare_mb_per_s"] / 3600


def day_samples(size: Deployment) -> float:
    """Training samples of one day's events."""
    return size.users * size.events_per_user_day * size.samples_per_event


def all_samples(size: Deployment) -> float:
    """Those of all kept events."""
    return size.users * size.events_per_user * size.samples_per_event


def cpu_per_s(size: Deployment, recorded: Recorded) -> Amount:
    """Samples/s of SDIM on the recorded machine's two cores, at this length of histories.

    Between recorded lengths a step's time is taken as linear; beyond the longest it goes on as between the last two.
    """
    length = max(size.recent, _LENGTHS[0])
    right = next((i for i, known in enumerate(_LENGTHS) if known >= length), len(_LENGTHS) - 1)
    right = max(right, 1)
    left = right - 1
    share = (length - _LENGTHS[left]) / (_LENGTHS[right] - _LENGTHS[left])
    one, two = recorded[_STEPS[left]], recorded[_STEPS[right]]
    ends = [a + share * (b - a) for a, b in ((one.value, two.value), (one.low, two.low), (one.high, two.high))]
    ms = Amount(ends[0], min(ends), max(ends))
    return Amount(1e3 * recorded.number("step_batch")) / ms


def vector_bytes(size: Deployment) -> float:
    """Rows of a sample's history, if a batch's rows are as distinct as was said."""
    return size.recent * size.vectors_per_event * size.dim * 4 * size.distinct_rows


def gpu_bounds(size: Deployment, gpus: int, recorded: Recorded) -> dict[str, float]:
    """Samples/s of each of so many GPUs, if there were nothing but products, rows, or the exchange of rows."""
    speed = 1e9 * recorded.number("gflops_core") * recorded.number("matmul_threads")
    flop = recorded.number("matmul_ms") / 1e3 * speed / recorded.number("matmul_batch")
    read = vector_bytes(size)
    bounds = {"products": 1e12 * size.gpu_tflops / flop, "rows": GB * size.gpu_gb_per_s / (_TABLE_PASSES * read)}
    if gpus > 1:
        inside = (min(gpus, _HOST_GPUS) - 1) / gpus / (GB * size.gpu_link_gb_per_s)
        outside = max(0, gpus - _HOST_GPUS) / gpus / (GB * size.gpu_network_gb_per_s)
        bounds["exchange"] = 1 / (_EXCHANGES * read * max(inside, outside))
    return bounds


def gpus_per_s(size: Deployment, gpus: int, recorded: Recorded) -> Amount:
    """Samples/s of all of them together.

    From your own figure of one GPU: between it alone and it with the exchange after it. Else between what two CPU cores
    did, than which a GPU is taken to be no slower, and the lowest bound; planned is the share of its bound that the
    CPU's step reached.
    """
    bounds = gpu_bounds(size, gpus, recorded)
    if size.gpu_samples_per_s:
        each = size.gpu_samples_per_s
        after = 1 / (1 / each + (1 / bounds["exchange"] if "exchange" in bounds else 0))
        return Amount(after, after, each) * gpus
    most = min(bounds.values())
    planned = most / recorded.number("step_over_matmul")
    return Amount(planned, min(planned, cpu_per_s(size, recorded).value), most) * gpus


def gpus_for_tables(size: Deployment) -> Amount:
    """GPUs that hold the tables in float32 and the optimiser's numbers."""
    return Amount(size.ids * (4 * size.dim + _OPTIMISER_BYTES) / GB / (TABLES_SHARE * size.gpu_gb)).whole()


def needs(size: Deployment, recorded: Recorded) -> list[Need]:
    """The log, its preparation, a pass over it and over a day's events."""
    each_parquet = recorded.number("prepare_parquet_gb") / recorded.number("prepare_log_gb")
    log = log_tb(size, recorded)
    cpu = cpu_per_s(size, recorded)
    of_gpus = () if size.gpu_samples_per_s else (*_BOUNDS, "step_over_matmul", *_STEPS)
    return [
        Need("log_raw_tb", Amount(log), "TB", "all kept events, uncompressed", ("prepare_log_gb", "prepare_events")),
        Need(
            "log_parquet_tb",
            Amount(log * each_parquet),
            "TB",
            "the same as Parquet",
            ("prepare_parquet_gb", "prepare_log_gb"),
        ),
        Need(
            "prepare_hours",
            prepare_hours(size, recorded),
            "h",
            "`recsys prepare` of it, two cores",
            ("prepare_mb_per_s",),
        ),
        Need(
            "train_hours.two_cores", Amount(all_samples(size) / 3600) / cpu, "h", "a pass over all kept events", _STEPS
        ),
        *(
            Need(
                f"train_hours.{gpus}_gpus",
                Amount(all_samples(size) / 3600) / gpus_per_s(size, gpus, recorded),
                "h",
                f"the same; bound: {_lowest(size, gpus, recorded)}",
                of_gpus,
            )
            for gpus in GPUS
        ),
        Need("day_hours.two_cores", Amount(day_samples(size) / 3600) / cpu, "h", "a pass over a day's events", _STEPS),
        *(
            Need(
                f"day_hours.{gpus}_gpus",
                Amount(day_samples(size) / 3600) / gpus_per_s(size, gpus, recorded),
                "h",
                "the same",
                of_gpus,
            )
            for gpus in GPUS
        ),
        Need(
            "gpus_for_tables",
            gpus_for_tables(size),
            "GPUs",
            "float32 rows, 4 B of Adagrad each, in 0.8 of a GPU's memory",
        ),
    ]


def _lowest(size: Deployment, gpus: int, recorded: Recorded) -> str:
    bounds = gpu_bounds(size, gpus, recorded)
    return min(bounds, key=lambda name: bounds[name])
