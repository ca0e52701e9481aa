"""``benchmarks/capacity.py``: sums worked out by hand, constants that exist, bounds, and what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from support.paths import ROOT

from recsys.embeddings.quantize import row_bytes as quantized_row_bytes
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.keys import history_keys, state_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import Events, event_dtype, make_events

FOLDER = ROOT / "benchmarks"
RESULTS = FOLDER / "results"
sys.path.insert(0, str(FOLDER))
try:
    import capacity
    from sizing import claims, limits, memory, pages, picture, serving, store, training
    from sizing.amounts import Amount
    from sizing.deployment import ARGUMENTS, Deployment, deployment, number, option, scaled
    from sizing.recorded import SOURCES, MissingFigureError, Recorded, read_recorded
finally:
    sys.path.remove(str(FOLDER))

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Round numbers, so that sums can be checked by hand.
ROUND: dict[str, float] = {
    "int8_row": 72, "int4_row": 40, "fp16_row": 128, "row_width": 64, "map_kib": 100, "map_ids": 10_240,
    "workers_gb": 1.6, "workers_table_gb": 1.0, "supervisor_gb": 0.2, "switch_limit": 1.25,
    "record_bytes": 40, "user_bytes_200": 9_000, "event_bytes_1000": 50, "append_us": 200,
    "commands_per_s": 1_000_000, "ingest_per_s": 250_000, "two_workers": 1.2,
    "retrieve_ms": 10, "retrieve_items": 1_000_000, "precompute_s": 100, "precompute_users": 100,
    "precompute_events": 1_000, "step_ms_50": 50, "step_ms_200": 100, "step_ms_1000": 100, "step_ms_2000": 200,
    "step_batch": 1_000, "step_threads": 2, "matmul_ms": 10, "step_over_matmul": 10, "matmul_batch": 1_000,
    "matmul_threads": 2, "gflops_core": 100, "prepare_mb_per_s": 100, "prepare_log_gb": 20, "prepare_parquet_gb": 10,
    "prepare_events": 1e9,
    **{f"{name}{end}": value for end in ("", ".int8") for name, value in (
        ("rank_per_core", 100_000), ("rank_candidates", 200), ("rank_other_idle", 0.75), ("rank_bare", 200_000),
        ("rank_p99_even", 20), ("rank_p99_poisson", 40), ("rank_load", 0.7),
    )},
}  # fmt: skip


@pytest.fixture(scope="module")
def by_hand() -> Recorded:
    """Constants of round numbers."""
    assert set(ROUND) == set(SOURCES)
    return Recorded({name: Amount(value) for name, value in ROUND.items()}, dict.fromkeys(ROUND, "CPU"))


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """Those of the repository."""
    return read_recorded(RESULTS)


def a_million(**numbers: Any) -> Deployment:
    return deployment(1e6, numbers)


# Sums.


def test_a_row_is_its_numbers_and_what_the_recorded_row_has_beside_them(by_hand: Recorded) -> None:
    assert [memory.row_bytes(kind, 100, by_hand) for kind in ("fp32", "fp16", "int8", "int4")] == [400, 200, 108, 58]


def test_rows_of_recorded_formats_are_as_wide_as_those_that_are_exported(recorded: Recorded) -> None:
    for dim in (1, 7, 32, 64, 129):
        for kind in ("fp16", "int8", "int4"):
            assert memory.row_bytes(kind, dim, recorded) == quantized_row_bytes(kind, dim)  # type: ignore[arg-type]


def test_a_host_has_room_for_two_releases_tables_and_maps_and_for_its_workers(by_hand: Recorded) -> None:
    size = a_million(ids=1e9, dim=25, format="fp32", host_cores=10)
    # 1e9 rows of 100 B; maps of 100 KiB for 10,240 ids, 10 B each; (1.6 - 1.0 - 0.2) / 4 GB a worker.
    assert memory.table_gb(size, "fp32", by_hand) == 100
    assert memory.map_gb(size, by_hand) == Amount(10, 0, 10)
    found = memory.host_gb(size, "fp32", by_hand)
    assert (found.value, found.low, found.high) == pytest.approx((2 * 110 + 1, 1.25 * 100 + 1, 2 * 110 + 1))


def test_a_history_is_its_layout_loaded_grown_and_at_its_largest() -> None:
    size = a_million(events_per_user=1_000, event_bytes=40, recent=50)
    assert store.chunk_events(40, 50, 1_000) == 4064 // 40 == 101
    found = store.history_bytes(size)
    # Loaded: 8 chunks and 192 open events in an exact string. Grown: 102 events with room for as many more.
    assert found.low == pytest.approx(56 + 192 * 40 + 130 + 1.01 * 808 * 40 + 130)
    assert found.value == pytest.approx(2 * (56 + 102 * 40) + 130 + 1.01 * 899 * 40 + 130)
    assert found.high == pytest.approx(2 * (56 + 1.4 * 101 * 40) + 130 + 1.01 * 909 * 40 + 130)


def test_redis_holds_users_states_and_items_and_is_split_by_memory_and_by_processor(by_hand: Recorded) -> None:
    size = a_million(
        event_bytes=40, recent=50, short=50, state_numbers=5_000, user_row_bytes=90, item_row_bytes=90, items=1e6,
        headroom=2, redis_gb=10, redis_replicas=1, rank_per_s=8_000, events_per_user_day=0.0864, utilisation=0.5,
        peak_over_mean=10,
    )  # fmt: skip
    assert store.state_bytes(size) == 80 + 10_000 + 130 + 85
    user = store.history_bytes(size) + Amount(90 + 110 + 10_295)
    assert store.data_tb(size).value == pytest.approx((1e6 * user.value + 1e6 * 200) / 1e12)
    # 8,000 calls/s x 0.25 core / 500 calls/s; 1e6 x 0.0864 / 86,400 x 10 events/s of 200 us; 6 and 1 bare commands.
    assert store.appends_per_s(size) == pytest.approx(10)
    found = store.cores(size, by_hand)
    assert found.value == found.high == pytest.approx(8_000 * 0.25 / 500 + 10 * 200e-6)
    assert found.low == pytest.approx((8_000 * 6 + 10) * 1e-6)
    for_memory, for_processor = store.primaries(size, by_hand)
    assert for_memory.value == math.ceil(2 * 1e3 * store.data_tb(size).value / 10)
    assert for_processor.value == math.ceil(4.002 / 0.5)
    servers = next(need for need in store.needs(size, by_hand) if need.figure == "redis_servers")
    assert servers.amount.value == 2 * max(for_memory.value, for_processor.value)


def test_a_short_history_has_no_state() -> None:
    assert store.state_bytes(a_million(events_per_user=178, recent=50)) == 0
    assert store.state_bytes(a_million(events_per_user=179, recent=50)) > 0
    assert store.state_bytes(a_million(state_numbers=0)) == 0


def test_a_call_costs_between_the_graphs_in_proportion_and_all_in_proportion(by_hand: Recorded) -> None:
    # Recorded: 200 candidates in 2 ms, of which the bare graphs take 1.
    assert serving.rank_ms(a_million(candidates=200), by_hand) == Amount(2)
    assert serving.rank_ms(a_million(candidates=600), by_hand) == Amount(6, 4, 6)
    assert serving.rank_ms(a_million(candidates=100), by_hand) == Amount(1.5, 1, 2)
    assert serving.rank_ms(a_million(candidates=600, dim=64), by_hand) == Amount(12, 4, 12)


def test_ranker_cores_are_calls_over_utilisation_and_speed_beside_others(by_hand: Recorded) -> None:
    size = a_million(candidates=200, rank_per_s=30_000, utilisation=0.5, host_cores=10)
    # Two workers made 1.2 calls for one's, while callers and Redis took a quarter of a core of each: 1.2 x 1.25 / 2.
    assert serving.worker_share(size, by_hand) == Amount(0.75, 0.75, 1.0)
    assert serving.cores(size, by_hand) == Amount(30_000 * 0.002 / 0.5 / 0.75, 30_000 * 0.002 / 0.5, 160)
    assert serving.hosts(size, by_hand) == Amount(16, 12, 16)


def test_messages_are_as_long_as_their_definition_says() -> None:
    sent = serving.message_bytes(a_million(candidates=1_000, answered=0))
    assert 8_000 < sent["request"] < 8_050
    assert 4_000 < sent["answer"] < 4_100
    assert serving.message_bytes(a_million(answered=10))["answer"] < 200


def test_reads_are_the_newest_events_the_state_and_rows() -> None:
    size = a_million(event_bytes=40, short=50, state_numbers=1_000, candidates=100, cached_items=0.5, item_row_bytes=20)
    assert store.read_bytes(size) == {"history": 2 * 56 + 178 * 40, "state": 2_080, "rows": 48 + 50 * 20}


def test_training_hours_are_samples_over_what_a_step_takes(by_hand: Recorded) -> None:
    size = deployment(1e6, {"events_per_user": 600, "recent": 600, "events_per_user_day": 6, "samples_per_event": 0.5})
    assert training.cpu_per_s(size, by_hand) == Amount(10_000)  # 1,000 samples in 100 ms
    assert training.cpu_per_s(deployment(1e6, {"events_per_user": 1_500, "recent": 1_500}), by_hand).value == (
        pytest.approx(1_000 / 0.150)
    )
    found = {need.figure: need.amount for need in training.needs(size, by_hand)}
    assert found["train_hours.two_cores"].value == pytest.approx(1e6 * 600 * 0.5 / 10_000 / 3_600)
    assert found["day_hours.two_cores"].value == pytest.approx(1e6 * 6 * 0.5 / 10_000 / 3_600)
    # 20 B an event.
    assert found["log_raw_tb"].value == pytest.approx(1e6 * 600 * 20 / 1e12)
    assert found["prepare_hours"].value == pytest.approx(1e6 * 600 * 20 / 100e6 / 3_600)


def test_gpus_are_bound_by_products_rows_and_the_exchange_of_rows(by_hand: Recorded) -> None:
    size = deployment(
        1e6,
        {"events_per_user": 1_000, "recent": 1_000, "vectors_per_event": 1, "dim": 25, "gpu_tflops": 100,
         "gpu_gb_per_s": 3_000, "gpu_link_gb_per_s": 350, "gpu_network_gb_per_s": 50},
    )  # fmt: skip
    # Products: 10 ms x 200 GFLOP/s / 1,000 samples = 2 MFLOP. Rows: 100 kB, three times. Exchange: twice, 7/8 of it.
    assert training.gpu_bounds(size, 1, by_hand) == pytest.approx({"products": 5e7, "rows": 1e7})
    assert training.gpu_bounds(size, 8, by_hand)["exchange"] == pytest.approx(350e9 / (2 * 1e5 * 7 / 8))
    assert training.gpu_bounds(size, 16, by_hand)["exchange"] == pytest.approx(50e9 / (2 * 1e5 * 8 / 16))
    found = training.gpus_per_s(size, 8, by_hand)
    assert (found.low, found.value, found.high) == pytest.approx((8 * 1e4, 8 * 2e5, 8 * 2e6))
    own = Deployment(**{**size.sizes(), "gpu_samples_per_s": 2e6})  # type: ignore[arg-type]
    assert training.gpus_per_s(own, 8, by_hand).value == pytest.approx(8 * 1e6)
    assert training.gpus_for_tables(a_million(ids=1e9, dim=15, gpu_gb=10)).value == 8  # 64 GB in 8 GB of each


# Constants.


def test_every_constant_is_a_recorded_figure(recorded: Recorded) -> None:
    assert set(recorded.values) == set(SOURCES)
    used = {name for needs in pages.plan(a_million(), recorded).values() for need in needs for name in need.sources}
    assert used <= set(SOURCES)


def test_a_figure_that_was_renamed_stops_with_its_name(tmp_path: Path) -> None:
    for file in RESULTS.glob("*.jsonl"):
        renamed = file.read_text().replace('"rank.two_workers_over_one"', '"rank.two_over_one"')
        (tmp_path / file.name).write_text(renamed)
    command = [sys.executable, str(FOLDER / "capacity.py"), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stdout
    assert "figure 'rank.two_workers_over_one' is missing or has another name" in done.stderr


@pytest.mark.parametrize("name", SOURCES)
def test_a_constant_that_is_missing_stops_with_its_figure_and_detail(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    lines = [json.loads(row) for file in RESULTS.glob("*.jsonl") for row in file.read_text().splitlines()]
    for line in lines:
        if line["figure"] == source.figure:
            *path, last = source.key.split(".")
            inner = line
            for part in path:
                inner = inner[part]
            del inner[last]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(MissingFigureError, match=re.escape(f"figure {source.figure!r}: {source.key} is None")):
        read_recorded(tmp_path)


@pytest.mark.parametrize("value", [0, -1, "5", None, True, math.nan])
def test_a_constant_that_is_no_positive_number_is_refused(value: object, tmp_path: Path) -> None:
    lines = [json.loads(row) for file in RESULTS.glob("*.jsonl") for row in file.read_text().splitlines()]
    changed = [{**line, "value": value} if line["figure"] == "ingest.events_per_s" else line for line in lines]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(MissingFigureError, match="'ingest.events_per_s': value is .*; allowed: a positive number"):
        read_recorded(tmp_path)


def test_a_line_of_no_figure_is_named(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text('{"figure": "a"}\n[1]\n')
    with pytest.raises(MissingFigureError, match=re.escape("all.jsonl, line 2: no line of a figure")):
        read_recorded(tmp_path)


def test_the_sums_hold_recorded_bytes(recorded: Recorded) -> None:
    for about, found, amount in claims.recorded_bytes(recorded):
        assert amount.low <= found <= amount.high, about
    assert Deployment.event_bytes == recorded.number("record_bytes")


def test_the_reference_model_has_tables_of_the_width_that_is_taken_for_it() -> None:
    found = re.search(r"TableConfig\(dim=(\d+)\)", (FOLDER / "harness" / "reference.py").read_text())
    assert found is not None and int(found[1]) == serving.REFERENCE_DIM


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.mark.parametrize("recent", [50, 178, 1_000])
def test_a_real_redis_takes_what_the_sums_say(server: str, recent: int) -> None:
    """At every hundred events from the cap on, in batches of 20."""
    features = FeatureSet(
        name=f"sizing{recent}",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        history=History(
            attributes=(Categorical(name="category"), Categorical(name="action", storage="u8")),
            max_events=1_000,
            recent=recent,
        ),
    )
    size = a_million(recent=recent, event_bytes=event_dtype(features).itemsize, state_numbers=8_192)
    assert size.event_bytes == 33
    allowed = store.history_bytes(size)
    found = []

    def events(first: int) -> Events:
        times = 1_700_000_000_000 + np.arange(first, first + 20)
        columns = {"category": times % 100, "action": times % 5}
        return make_events(features, item=times, timestamp_ms=times, arrival_ms=times, attributes=columns)

    async def append() -> None:
        redis_store = RedisFeatureStore.connect(server, features)
        try:
            for first in range(0, 3_000, 20):
                await redis_store.append(1, events(first), timeout_s=30)
                if first >= 2_000 and first % 100 == 0:
                    keys = history_keys(features.name, 1)[:2]
                    found.append(sum(admin.memory_usage(key, samples=0) or 0 for key in keys))
        finally:
            await redis_store.close()

    with redis.Redis.from_url(server) as admin:
        asyncio.run(append())
        state = state_key(features.name, 1, "0123456789abcdef")
        admin.set(state, bytes(80 + 2 * 8_192), ex=1_000)
        state_found = admin.memory_usage(state, samples=0)
    # MEMORY USAGE leaves out some 30 bytes a key of hash table, and the expiry's.
    assert allowed.low - 200 <= min(found) and max(found) <= allowed.high, (allowed, found)
    assert sum(found) / len(found) == pytest.approx(allowed.value, rel=0.25)
    assert store.state_bytes(size) - 200 <= state_found <= store.state_bytes(size)


# A reader's numbers.


@pytest.mark.parametrize(
    ("text", "value"), [("200M", 2e8), ("1B", 1e9), ("1e9", 1e9), ("200,000", 2e5), (" 0.5 ", 0.5), (".5", 0.5)]
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("wrong", ["0", "-1", "1e15", "nan", "many"])
def test_a_number_out_of_bounds_is_refused_by_its_arguments_name(name: str, wrong: str) -> None:
    if wrong == "0" and ARGUMENTS[name].low <= 0:
        wrong = "-0.5"
    given = capacity.arguments().parse_args([f"{option(name)}={wrong}"])
    with pytest.raises(ValueError, match=rf"^{option(name)}: .*allowed: "):
        capacity.sizes_of(given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--users", "2.5k", "--candidates", "1.5"], "--candidates: 1.5; allowed: whole numbers from 1 to 10,000"),
        (["--format", "fp8"], "--format: 'fp8'; allowed: fp32, fp16, int8, int4"),
        (["--compute", "int4"], "--compute: 'int4'; allowed: float32, int8"),
        (["--recent", "50", "--short", "60"], "--short: 60 is more than --recent 50; allowed: at most that"),
        (["--recent", "2000"], "--recent: 2,000 is more than --events-per-user 1,000; allowed: at most that"),
        (["--answered", "501"], "--answered: 501 is more than --candidates 500; allowed: at most that"),
        (["--users", "1M", "--ids", "1M"], "--ids: 1,000,000 ids for 1,000,000 users and 100,000 items"),
        (["--users", "1M", "2M", "3M", "--ids", "9M", "9M"], "--ids: 2 numbers for 3 of --users; allowed: one, or as"),
    ],
)
def test_numbers_that_do_not_go_together_end_with_the_arguments_name(arguments: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        capacity.sizes_of(capacity.arguments().parse_args(arguments))


def test_an_argument_that_is_refused_ends_the_command_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _said("--users", "0")
    assert ended.value.code == 2
    assert "--users: 0; allowed: whole numbers from 1,000 to 10,000,000,000 users" in capsys.readouterr().err


def test_help_says_each_arguments_unit_and_bounds() -> None:
    said = " ".join(capacity.arguments().format_help().split())
    for name, argument in ARGUMENTS.items():
        assert (
            f"{option(name)} N" in said and f"[{argument.unit}; {argument.low:,.15g} to {argument.high:,.15g}" in said
        )


# A plan.


def test_amounts_grow_with_users_and_no_limit_mends_itself(recorded: Recorded) -> None:
    courses = [scaled(deployment(2e8, {}), users) for users in (1e4, 1e6, 5e7, 2e8, 1e9)]
    wanted = [{limit.name: limit.wanted for limit in limits.limits(size, recorded)} for size in courses]
    needed = [
        {need.figure: need.amount for needs in pages.plan(size, recorded).values() for need in needs}
        for size in courses
    ]
    for before, after in [*zip(wanted, wanted[1:], strict=False), *zip(needed, needed[1:], strict=False)]:
        for name in before:
            if name in ("host_gbit", "a host's network"):  # more hosts share it
                continue
            for end in ("value", "low", "high"):
                assert getattr(after[name], end) >= getattr(before[name], end), name


@pytest.mark.parametrize(
    ("argument", "more", "figure"),
    [
        ("candidates", 1_000, "ranker_cores"),
        ("rank_per_s", 1e6, "ranker_hosts"),
        ("dim", 64, "table_gb.int8"),
        ("events_per_user", 2_000, "history_kb_user"),
        ("event_bytes", 66, "redis_data_tb"),
        ("state_numbers", 20_000, "states_tb"),
        ("headroom", 3, "redis_primaries.memory"),
        ("peak_over_mean", 6, "events_per_s"),
        ("redis_replicas", 2, "redis_servers"),
        ("log_share", 0.1, "log_gb_day"),
        ("log_days", 60, "log_tb"),
        ("releases_kept", 10, "releases_tb"),
        ("samples_per_event", 4, "train_hours.8_gpus"),
        ("vectors_per_event", 4, "train_hours.8_gpus"),
        ("user_row_bytes", 500, "redis_data_tb"),
        ("item_row_bytes", 500, "log_kb_call"),
        ("host_cores", 64, "host_gb.fp32"),
        ("answered", 500, "answer_bytes"),
        ("short", 100, "read_bytes.history"),
    ],
)
def test_more_of_one_thing_takes_more_of_another(argument: str, more: float, figure: str, recorded: Recorded) -> None:
    found = []
    for numbers in ({}, {argument: more}):
        plan = pages.plan(deployment(2e8, numbers), recorded)
        found.append({need.figure: need.amount.value for needs in plan.values() for need in needs}[figure])
    assert found[1] > found[0]


def test_more_of_what_helps_takes_less(recorded: Recorded) -> None:
    for argument, better, figure in (
        ("utilisation", 0.9, "ranker_cores"),
        ("cached_items", 1.0, "read_bytes.rows"),
        ("redis_gb", 100, "redis_primaries.memory"),
        ("compute", "int8", "ranker_cores"),
        ("distinct_rows", 0.1, "train_hours.64_gpus"),
        ("gpu_gb", 160, "gpus_for_tables"),
        ("host_gbit", 100, "push_s"),
    ):
        found = []
        for numbers in ({}, {argument: better}):
            plan = pages.plan(deployment(2e8, numbers), recorded)  # type: ignore[arg-type]
            found.append({need.figure: need.amount.value for needs in plan.values() for need in needs}[figure])
        assert found[1] < found[0], argument


def test_a_part_breaks_where_it_is_wanted_once(by_hand: Recorded) -> None:
    size = deployment(2e8, {"event_bytes": 40, "recent": 50})
    points = limits.breaking_points(size, by_hand)
    for limit in limits.limits(size, by_hand):
        value, low, high = points[limit.name]
        assert low <= value <= high
        if limit.name == "one Redis: memory":  # in proportion to users
            assert value == pytest.approx(2e8 / limit.wanted.value, rel=0.01)
        assert (value < 2e8) is (limit.wanted.value > 1)


def test_the_replacement_of_tables_is_the_first_format_that_fits(by_hand: Recorded) -> None:
    # Tables of 100, 50, 33 and 21 GB and maps of 10, twice, and a worker: 220, 120, 86 and 62 GB.
    numbers: dict[str, Any] = {"ids": 1e9, "dim": 25, "host_cores": 1}
    for memory_gb, says in ((130, "fp16: "), (100, "int8: "), (70, "int4: "), (50, "rows that ids share")):
        size = deployment(1e6, {**numbers, "host_memory_gb": memory_gb})
        names = {limit.name: limit.replacement for limit in limits.limits(size, by_hand)}
        assert names["a host's memory, fp32"].startswith(says)


def test_json_lines_name_figures_sizes_units_and_ranges() -> None:
    lines = [json.loads(row) for row in _said("--json", "--users", "1M", "2M", "--ids", "9M").splitlines()]
    names = [line["figure"] for line in lines]
    assert len(names) == 2 * len(set(names)) and "capacity.ranker_cores" in names
    assert {line["on"]["sizes"]["users"] for line in lines} == {1e6, 2e6}
    assert {line["on"]["sizes"]["ids"] for line in lines} == {9e6}
    for line in lines:
        assert line["spread"][0] <= line["value"] <= line["spread"][1] and line["unit"]
    cores = next(line for line in lines if line["figure"] == "capacity.ranker_cores")
    assert "rank.candidates_per_s_core" in cores["sources"]


def test_text_shows_sizes_side_by_side_and_what_breaks_first() -> None:
    said = _said("--users", "5k", "200M", "--quick")
    assert "0.005 M users  200 M users" in said
    assert "0.005 M users: nothing breaks." in said
    assert "200 M users: the first to break is one Redis: memory (" in said


@pytest.mark.parametrize("users", [["200M"], ["1M", "50M", "200M"]])
def test_the_picture_shows_every_size_part_and_replacement(
    users: list[str], recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, _ = capacity.sizes_of(capacity.arguments().parse_args(["--users", *users]))
    seen: list[Axes] = []
    breaking = picture._breaking
    monkeypatch.setattr(picture, "_breaking", lambda axes, *rest: (breaking(axes, *rest), seen.append(axes)))
    picture.draw(sizes, recorded, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = seen
    labels = {label.get_text() for label in axes.get_yticklabels()}
    texts = " ".join(text.get_text() for text in axes.texts)
    for limit in limits.limits(sizes[-1], recorded):
        assert limit.name.replace("`", "") in labels
        assert limit.wanted.value <= 1 or limit.replacement.replace("`", "") in texts
    assert len(axes.lines) == len(users)


def _said(*arguments: str) -> str:
    """Standard output of the command, run in this process."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(said):
        patched.setattr(sys, "argv", ["capacity.py", *arguments])
        capacity.run()
    return said.getvalue()
