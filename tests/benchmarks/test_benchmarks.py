"""The benchmarks' contract: what they print, and that they leave nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from support.paths import ROOT, TESTS

FOLDER = ROOT / "benchmarks"
BUNDLE = TESTS / "golden" / "compatibility" / "din"
"""So that no benchmark has to export one."""
SERVED = [
    f"rank.{name}{suffix}"
    for suffix in ("", ".int8")
    for name in (
        "candidates_per_s_core",
        "arithmetic_bound",
        "grpc_over_ort",
        "over_flat",
        "p99_over_ort",
        "p99_over_bare_p99",
        "p99_over_ort_poisson",
        "p99_over_bare_p99_poisson",
    )
]
MAPS = (
    "hash",
    "double_hash",
    "frequency",
    "double_frequency",
    "quotient_remainder",
    "unified",
    "graph",
    "double_graph",
)
QUANTIZED = ("fp16", "int8", "int4")
FIGURES = {
    "rank": [*SERVED, "rank.history_growth", "rank.pss_gb_4_workers", "rank.two_workers_over_one"],
    "soak": ["soak.memory_growth", "soak.p99_drift"],
    "reliability": [
        *(f"overload.{name}" for name in ("goodput", "p99", "rejection_p99_ms", "back_to_normal_s")),
        "flood.health_refused",
        "flood.others_failed",
        *(f"faults.failed_calls.{kind}" for kind in ("redis", "worker", "sigterm", "certificates")),
        *(f"security.cpu_share.{kind}" for kind in ("mtls", "token", "jwt")),
        "security.cpu_share.tracing",
        "security.cpu_share.metrics",
        "explain.p99_of_others",
        "everything_on.memory_growth",
        "everything_on.p999_ms",
    ],
    "train": [
        "train.max_logit_difference",
        "train.din_vs_plain_torch",
        "train.din_samples_per_s",
        "train.plain_torch_samples_per_s",
        "train.din_peak_mib",
        "train.plain_torch_peak_mib",
    ],
    "feature_store": [
        "store.tail_over_getrange",
        "store.items_over_mget",
        "store.append_over_raw.100_events",
        "store.append_over_raw",
        "store.append_over_raw.1_events",
        "store.tail_growth",
        "store.append_growth",
        "store.memory_over_record",
        "store.gib_per_million_users",
        "ingest.events_per_s",
    ],
    "sort_log": [
        "sort_log.prepare_over_duckdb_sort",
        "sort_log.prepare_mb_per_s",
        "sort_log.duckdb_sort_mb_per_s",
        "sort_log.prepare_peak_over_limit",
    ],
    "way_in": [
        "way_in.rows_agreeing",
        "way_in.first_list_lines",
        "way_in.numeric_auc_kept",
        "way_in.export_s_22",
        "way_in.export_s_202",
    ],  # fmt: skip
    "deploy": [
        "deploy.planted_faults_missed",
        "deploy.policy_findings_unexplained",
        "deploy.serve_mb",
        "deploy.cold_start_s",
        "deploy.new_replicas_beyond_age_s",
        "deploy.failed_calls_when_one_goes",
        *(f"hosts.{name}" for name in ("lost_s", "two_over_one", "communication_share", "two_over_one_at_1ms")),
        *(f"hosts.{name}_whole_s" for name in ("redis", "ranker")),
    ],
    "row_maps": [
        "rowmap.open_ms_20k",
        "rowmap.opened_kib_20k",
        "rowmap.mapped_over_touched_20k",
        "rowmap.vocabulary.standard.lookup_us_20k",
        "rowmap.lookup_us_20k",
        *(f"rowmap.{kind}.lookup_us_20k" for kind in MAPS),
        "rowmap.gather_us_20k",
    ],
    "embedding_update": [f"update.over_{peer}_20k" for peer in ("tbe", "dense_adam", "sparse_adam")],
    "clusters": ["clusters.gowalla_s", "clusters.0.01M_edges_s", "clusters.0.01M_edges_peak_gib"],
    "full_ranking": ["full_ranking.seconds", "full_ranking.products_s", "full_ranking.over_products"],
    "default_settings": [f"default_settings.{model}" for model in ("mf", "lightgcn", "ngcf", "two_tower")],
    "graphhash": [
        *(f"graphhash.mf.{method}.{name}" for method in ("graph", "double_frequency") for name in ("recall", "ndcg")),
        "graphhash.mf.recall_gain",
        "graphhash.mf.ndcg_gain",
    ],
    "old_index": [f"old_index.{way}" for way in ("new", "frozen", "procrustes", "linear", "basis", "relative", "raw")],
    "quantize": [
        *(f"{kind}.size_ratio" for kind in QUANTIZED),
        *(f"{kind}.lookup_over_float32.{rows}_rows" for rows in (20, 200) for kind in QUANTIZED),
        *(f"{kind}.{name}" for kind in QUANTIZED for name in ("auc_loss", "log_loss_rise")),
    ],
    "large_table": [
        f"large_table.{name}"
        for name in (
            "table_over_memory",
            "max_logit_difference",
            "open_ms",
            "private_kib_per_request",
            "file_kib_per_request",
            *(f"{ids}_{quantile}_ms" for ids in ("even", "hot", "warmed") for quantile in ("p50", "p99")),
            "warm_up_s",
        )
    ],
    "sdim": [
        *(f"sdim.{block}{figure}_1000" for figure in ("step_ms", "peak_mib") for block in ("", "din_long_", "mean_")),
        "sdim.vs_din_long_1000",
    ],
    "serving_peers": [f"peer.ort_candidates_per_s.{way}" for way in ("once", "repeated")],
    "index": [
        *(f"index.ms_1M{share}" for share in ("", ".10pct", ".1pct", ".0.1pct")),
        "index.cold_p99_ms",
        "index.warm_p99_ms",
        "index.bytes_per_item",
        "index.ms_10M",
        "index.limited_p99_ms_10M",
        "index.ms_10M.1bit",
        "index.bytes_per_item.1bit",
        "index.exact",
    ],
    "real_vectors": [
        f"index.{figure}"
        for vectors in ("lightgcn_gowalla", "two_tower_beauty")
        for figure in (
            f"recall_kept.1bit.{vectors}",
            *(f"recall_vs_hnsw_at_filters.{vectors}.{filtered}" for filtered in ("all", "10pct", "1pct", "category")),
        )
    ],
    "retrieve": [
        *(f"retrieve.{name}{suffix}" for suffix in ("", ".large") for name in ("ms", "numpy_ms", "over_numpy")),
        "retrieve.private_mib.large",
        "index.attribute_visible_ms",
        "recommend.filtered_p50_over_plain",
        "recommend.ruled_p50_over_plain",
        "recommend.p50_ms",
        "recommend.p99_ms",
    ],
    "related": [
        "similar.lists_s",
        "similar.ms",
        "similar.users_ms",
        "audience.ms",
        "audience.bytes_per_pair",
        "trending.ms",
        "trending.refresh_ms",
    ],
    "retrieval_models": [
        *(f"retrieval_models.linear_{name}" for name in ("s", "mib", "recall", "ndcg")),
        *(f"cold.{figure}.{model}" for model in ("linear", "two_tower") for figure in ("items_hr10", "users_recall")),
        "retrieve.fresh_event",
        "retrieve.fresh_item",
        "retrieve.added_over_none",
        "retrieve.by_history_p50_ms",
        "retrieve.by_id_p50_ms",
        "retrieve.by_history_with_new_p50_ms",
        "retrieve.history_over_id",
    ],
    "releases": [
        "release.failed_calls",
        "release.p99_in_switch",
        "release.anonymous_mb_per_worker",
        "release.failed_calls_under_limit",
        "release.rollback_s",
        "release.shared_bytes",
        "release.store_reads_after",
        "release.store_reads_after_precomputed",
        "release.shadow_cost",
    ],
    "pipeline": [
        "pipeline.kills_lost",
        *(
            f"pipeline.{figure}.{log}"
            for log in ("movielens", "own")
            for figure in ("auc_loop", "auc_full", "auc_day_0", "day_minutes")
        ),
    ],
    "cold_start": ["cold_start.seconds", "cold_start.embedded_redis_seconds", "cold_start.bare_ort_seconds"],
}
MAY_BE_LEFT_OUT = {
    "release.failed_calls_under_limit": "no memory control group can be made",
    "index.limited_p99_ms_10M": "no memory control group can be made",
    "deploy.policy_findings_unexplained": "no figures of policies",
    "deploy.serve_mb": "no figures of images",
    "deploy.cold_start_s": "no figures of images",
    "hosts.lost_s": "no figures of hosts",
    "hosts.two_over_one": "no figures of hosts",
    "hosts.communication_share": "no figures of hosts",
    "hosts.two_over_one_at_1ms": "no figures of hosts",
    "hosts.redis_whole_s": "no figures of hosts",
    "hosts.ranker_whole_s": "no figures of hosts",
}
"""Figures that not every machine can measure -> what is said then."""
LONG = {
    "default_settings",
    "pipeline",
    "rank",
    "deploy",
    "reliability",
    "soak",
    "train",
    "row_maps",
    "quantize",
    "large_table",
    "serving_peers",
    "related",
    "retrieve",
    "real_vectors",
    "retrieval_models",
    "old_index",
    "way_in",
    "releases",
}
"""Even their smallest form takes more than ten seconds, most of it in exports and starts of servers."""

MEASURED_TARGETS = {"cold.items_hr10.linear", "cold.items_hr10.two_tower"}
"""Figures whose targets are measured beside them."""

TARGETS = {
    "index.ms_1M": 6,
    "index.ms_1M.1pct": 1,
    "index.ms_1M.0.1pct": 0.3,
    "index.ms_10M": 60,
    "index.ms_10M.1bit": 20,
    "index.bytes_per_item.1bit": 16,
    "index.bytes_per_item": 76,
    "index.exact": 1,
    **{f"index.recall_kept.1bit.{vectors}": 0.999 for vectors in ("lightgcn_gowalla", "two_tower_beauty")},
    **{
        f"index.recall_vs_hnsw_at_filters.{vectors}.{filtered}": 1.0
        for vectors in ("lightgcn_gowalla", "two_tower_beauty")
        for filtered in ("all", "10pct", "1pct", "category")
    },
    "pipeline.kills_lost": 0,
    "rowmap.open_ms_20k": 50,
    "rowmap.lookup_us_20k": 60,
    "store.tail_over_getrange": 1.3,
    "store.items_over_mget": 1.5,
    "store.append_over_raw.100_events": 0.6,
    "store.append_over_raw": 0.6,
    "store.append_over_raw.1_events": 0.6,
    "store.tail_growth": 1.2,
    "store.append_growth": 1.2,
    "store.memory_over_record": 1.2,
    "ingest.events_per_s": 150_000,
    "sort_log.prepare_over_duckdb_sort": 0.4,
    "sort_log.prepare_peak_over_limit": 1.0,
    "retrieval_models.linear_s": 60.0,
    "retrieval_models.linear_recall": 0.185,
    "retrieval_models.linear_ndcg": 0.1518,
    **{f"cold.users_recall.{model}": 0.9 for model in ("linear", "two_tower")},
    "retrieve.fresh_item": 1.0,
    "recommend.filtered_p50_over_plain": 1.1,
    "index.attribute_visible_ms": 1_000,
    "way_in.first_list_lines": 6,
    "way_in.numeric_auc_kept": 0.002,
    "way_in.export_s_22": 10.0,
    "way_in.export_s_202": 20.0,
    **{f"rank.candidates_per_s_core{suffix}": 120_000 for suffix in ("", ".int8")},
    **{f"rank.grpc_over_ort{suffix}": 0.85 for suffix in ("", ".int8")},
    **{f"rank.p99_over_ort{suffix}": 4.0 for suffix in ("", ".int8")},
    "rank.over_flat": 8.0,
    "rank.over_flat.int8": 8.0,
    "rank.history_growth": 1.1,
    "rank.pss_gb_4_workers": 1.85,
    "soak.memory_growth": 1.02,
    "soak.p99_drift": 1.25,
    "overload.goodput": 0.9,
    "overload.p99": 2.0,
    "overload.rejection_p99_ms": 20.0,
    "overload.back_to_normal_s": 2.0,
    "flood.health_refused": 0,
    "flood.others_failed": 0,
    **{f"faults.failed_calls.{kind}": 0 for kind in ("redis", "worker", "sigterm", "certificates")},
    "security.cpu_share.mtls": 0.1,
    **{f"security.cpu_share.{kind}": 0.05 for kind in ("token", "jwt")},
    "security.cpu_share.tracing": 0.03,
    "explain.p99_of_others": 1.5,
    "everything_on.memory_growth": 1.02,
    "train.din_vs_plain_torch": 2.0,
    "train.max_logit_difference": 1e-4,
    "clusters.gowalla_s": 2.0,
    "full_ranking.seconds": 20.0,
    "graphhash.mf.recall_gain": 1.015,
    "graphhash.mf.ndcg_gain": 0.883,
    "int8.size_ratio": 3.5,
    "int8.auc_loss": 0.0005,
    "large_table.table_over_memory": 1.0,
    "large_table.max_logit_difference": 1e-4,
    "sdim.vs_din_long_1000": 5.0,
    "cold_start.seconds": 1.5,
    "cold_start.embedded_redis_seconds": 1.5,
    "deploy.planted_faults_missed": 0,
    "deploy.policy_findings_unexplained": 0,
    "deploy.serve_mb": 250.0,
    "deploy.cold_start_s": 3.0,
    "deploy.new_replicas_beyond_age_s": 10.0,
    "deploy.failed_calls_when_one_goes": 0,
    "hosts.lost_s": 60.0,
    "hosts.two_over_one": 1.5,
    "way_in.rows_agreeing": 1.0,
    "release.failed_calls": 0,
    "release.p99_in_switch": 1.5,
    "release.anonymous_mb_per_worker": 100.0,
    "release.failed_calls_under_limit": 0,
    "release.rollback_s": 1.0,
    "release.shared_bytes": 0.95,
    "release.store_reads_after": 1.5,
    "release.store_reads_after_precomputed": 1.5,
    "release.shadow_cost": 1.1,
}
LINE = {"figure": "f", "value": 1.0, "unit": "s", "higher_is_better": False, "compared_with": "nothing", "on": {}}


@pytest.fixture(scope="module")
def common() -> ModuleType:
    """``benchmarks/harness/common.py``."""
    spec = importlib.util.spec_from_file_location("benchmarks_common", FOLDER / "harness" / "common.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def benchmark(name: str, *arguments: str, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """A benchmark in a session of its own; at the end nothing of that session may be left, nor its folders."""
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        with process:
            yield process
        # multiprocessing's own helper sees that its parent is gone a moment later.
        deadline_s = time.monotonic() + 5
        while (left := _session(process.pid)) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert left == []
        assert list(temporary.glob("recsys-bench-*")) == []
    finally:
        for pid in _session(process.pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", FIGURES)
def test_help_says_what_a_benchmark_measures_and_does_not_show_the_tiny_size(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    docstring = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    assert docstring.splitlines()[0] in done.stdout
    assert "--quick" in done.stdout and "--data" in done.stdout and "--tiny" not in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.prove, pytest.mark.timeout(1200)] if name in LONG else [])
        for name in FIGURES
    ],
)
def test_a_benchmark_prints_its_figures_and_leaves_nothing_behind(
    name: str, common: ModuleType, tmp_path: Path
) -> None:
    results = sorted((FOLDER / "results").glob("*"))
    given = ["--bundle", str(BUNDLE)] if name == "cold_start" else []
    with benchmark(name, "--tiny", *given, temporary=tmp_path) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    left_out = {figure for figure, why in MAY_BE_LEFT_OUT.items() if why in err}
    assert [line["figure"] for line in lines] == [figure for figure in FIGURES[name] if figure not in left_out]
    for line in lines:
        assert set(common.REQUIRED) <= set(line)
        assert {"cpu", "cores", "memory_gib", "os", "python", "versions", "sizes"} <= set(line["on"])
        if line["figure"] not in MEASURED_TARGETS:
            assert line.get("target") == TARGETS.get(line["figure"])
        if "target" in line:
            better, value, target = line["higher_is_better"], line["value"], line["target"]
            assert line["met"] is (value >= target if better else value <= target)
    assert sorted((FOLDER / "results").glob("*")) == results, "only full runs are saved"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("cold_start", ["--bundle", str(BUNDLE)], "start 0"),
        pytest.param("rank", [], "rounds of", marks=pytest.mark.prove),
    ],
)
def test_ctrl_c_stops_every_process(name: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    with benchmark(name, "--tiny", *arguments, temporary=tmp_path) as process:
        assert process.stderr is not None
        while says not in (said := process.stderr.readline()):
            assert said, "the benchmark ended"
        deadline_s = time.monotonic() + 20
        while not any("recsys.cli" in _command(pid) for pid in _session(process.pid)):
            assert time.monotonic() < deadline_s, "it started no server"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize("key", LINE)
def test_a_line_without_a_required_key_is_refused(key: str, common: ModuleType) -> None:
    line = {k: v for k, v in LINE.items() if k != key}
    with pytest.raises(ValueError, match=f"no {key}; a line has figure, value, unit"):
        common.emit(line)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True])
def test_a_value_that_is_no_finite_number_is_refused(value: object, common: ModuleType) -> None:
    with pytest.raises(ValueError, match="allowed: finite numbers"):
        common.emit({**LINE, "value": value})


def test_a_target_without_its_verdict_is_refused(common: ModuleType) -> None:
    with pytest.raises(ValueError, match="target and met go together"):
        common.emit({**LINE, "target": 2.0})


def test_a_line_is_printed_as_one_json_object(common: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    common.emit(common.line("f", 0.123456, "s", higher_is_better=False, compared_with="g", target=0.2, on={"cores": 2}))
    printed = json.loads(capsys.readouterr().out)
    assert printed["value"] == 0.1235
    assert printed["target"] == 0.2 and printed["met"] is True


def test_the_readme_names_every_figure_and_command() -> None:
    readme = (FOLDER / "README.md").read_text()
    for name, figures in FIGURES.items():
        assert f"python benchmarks/{name}.py" in readme
        for figure in figures:
            named = figure.removesuffix(".int8") if name == "rank" else figure
            named = named.replace("_20k", "_10M").replace("0.01M", "50M")
            named = named.replace(".20_rows", ".200_rows")
            for kind in MAPS:
                named = named.replace(f".{kind}.", ".<kind>.")
            for kind in QUANTIZED:
                named = named.replace(f"{kind}.", "<kind>.")
            named = named.replace(".mf.", ".<model>.").replace(".graph.", ".<method>.")
            named = named.replace(".double_frequency.", ".<method>.").replace(".<model>.<kind>.", ".<model>.<method>.")
            assert f"`{named}`" in readme


def _session(leader: int) -> list[int]:
    """Processes of a session that still run, its leader's own entry left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return [pid for pid in found if pid != leader]


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""
