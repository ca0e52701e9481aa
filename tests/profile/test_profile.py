"""`recsys profile`: what it measures is the server's own path, and its arithmetic follows from the shapes."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from rich.console import Console
from support.paths import ROOT, TESTS
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_retrieval import write_tiny_retrieval
from support.tiny_run import folder_of_this_process

from recsys.bundle import open_bundle
from recsys.errors import BundleError, InvalidInputError, StoreUnavailableError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.history.records import make_events
from recsys.profile import matmul
from recsys.profile.measure import Profile, profile_bundle
from recsys.profile.operators import Operator, read_operators
from recsys.profile.report import as_json, bound_lines, charts, print_profile
from recsys.serving.telemetry.stage_timer import STAGES


@cache
def tiny() -> Path:
    folder = folder_of_this_process() / "tiny"
    write_tiny_bundle(folder)
    return folder


@cache
def tiny_profile() -> Profile:
    return profile_bundle(tiny(), history=3, candidates=5, requests=20)


EXPORTED = TESTS / "golden" / "compatibility" / "sdim"
"""An SDIM whose short block reads 4 events, of 200 at most: its bundle has a state."""


@pytest.mark.parametrize(
    ("operator", "types"), [("MatMul", (np.float32, np.float32)), ("MatMulInteger", (np.uint8, np.int8))]
)
def test_the_written_model_is_a_matrix_product(operator: str, types: tuple[Any, Any]) -> None:
    numbers = {"MatMul": (1, 1, 1), "MatMulInteger": (2, 3, 6)}[operator]
    model = matmul.matmul_model(operator, numbers)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    random = np.random.default_rng(0)
    left, right = (random.integers(0, 100, (matmul.SIZE, matmul.SIZE)).astype(kind) for kind in types)
    (found,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"a": left, "b": right})
    assert np.array_equal(found, left.astype(np.int64) @ right.astype(np.int64))


def test_a_speed_is_a_positive_number() -> None:
    assert matmul.matmul_gflops() > 0 and matmul.integer_matmul_gops() > 0


def event(node: str, kind: str, us: int, inputs: list[list[int]], output: list[int]) -> dict[str, Any]:
    args = {
        "op_name": kind,
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": output}],
    }
    return {"cat": "Node", "name": f"{node}_kernel_time", "dur": us, "args": args}


def test_an_operators_time_is_its_mean_per_request_without_the_slowest_twentieth(tmp_path: Path) -> None:
    product = [event("Gemm_1", "FusedGemm", us, [[20, 8], [8, 6], [6]], [20, 6]) for us in [10] * 38 + [900, 900]]
    other = [event("Relu_0", "Relu", 4, [[20, 6]], [20, 6]) for _ in range(20)]
    whole_run = {"cat": "Session", "name": "model_run", "dur": 77}
    (tmp_path / "profile.json").write_text(json.dumps([whole_run, *product, *other]))
    # 20 requests: the product ran twice in each.
    gemm, relu = read_operators(tmp_path / "profile.json", "rank", requests=20)
    assert (gemm.kind, gemm.us, gemm.flop) == ("FusedGemm", 20.0, 2 * 2 * 20 * 8 * 6)
    assert gemm.gflops == pytest.approx(gemm.flop / 20e-6 / 1e9)
    assert (gemm.inputs, gemm.output) == (((20, 8), (8, 6), (6,)), (20, 6))
    assert (relu.kind, relu.us, relu.flop, relu.gflops) == ("Relu", 4.0, 0, 0.0)


def test_products_of_integers_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text(
        json.dumps([event("m", "DynamicQuantizeMatMul", 5, [[4, 8], [8, 3]], [4, 3])])
    )
    (found,) = read_operators(tmp_path / "profile.json", "rank", requests=1)
    assert found.integer and found.flop == 2 * 4 * 8 * 3


def test_a_profile_has_every_stage_and_every_node_and_the_arithmetic_of_the_shapes() -> None:
    found = tiny_profile()
    assert tuple(found.stages_us) == STAGES and (found.requests, found.degraded) == (20, 0)
    measured = ("convert", "store", "encode", "user_graph", "rank_graph", "total")
    assert all(found.stages_us[stage] > 0 for stage in measured)
    assert found.total_p99_us >= found.stages_us["total"] >= found.model_us > 0
    assert found.history_events == 3 and 0 < found.cpu_share < 1.1
    for graph in ("user", "rank"):
        nodes = onnx.load(tiny() / f"{graph}.onnx", load_external_data=False).graph.node
        kinds = {operator.kind for operator in found.operators if operator.graph == graph}
        assert kinds == {node.op_type for node in nodes}
    assert found.flop == 2 * 5 * 4 + 2 * 3 * 4  # 5 candidates, 3 events, width 4
    assert found.bound_us == pytest.approx(found.flop / found.matmul_gflops / 1e3)
    assert found.candidates_per_s == pytest.approx(5 / found.stages_us["total"] * 1e6)


def test_an_exported_model_with_a_state_is_profiled() -> None:
    found = profile_bundle(EXPORTED, history=250, candidates=30, requests=10)
    assert found.stages_us["state"] > 0 and found.degraded == 0
    assert found.history_events == 200, "the model looks at as many as the FeatureSet's `recent`"
    assert {"user", "rank"} == {operator.graph for operator in found.operators}
    assert found.flop > 30 * 2 * (6 * 5 * 4), "the short block's second layer, for each candidate and event"


def test_the_process_goes_back_to_its_cores() -> None:
    before = os.sched_getaffinity(0)
    tiny_profile.__wrapped__()
    assert os.sched_getaffinity(0) == before


def test_users_of_a_store_are_asked_about_with_their_own_histories(redis_url: str) -> None:
    async def fill() -> None:
        store = RedisFeatureStore.connect(redis_url, FEATURES)
        for user in (7, 8):
            events = make_events(FEATURES, item=[1, 2], timestamp_ms=[1_600_000_000_000, 1_600_000_001_000])
            await store.append(user, events, timeout_s=10.0)
        await store.close()

    asyncio.run(fill())
    found = profile_bundle(tiny(), redis_url=redis_url, candidates=2, requests=4)
    assert (found.history_events, found.degraded, found.candidates) == (2, 0, 2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"candidates": 0}, "candidates is 0; allowed: 1 or more"),
        ({"requests": 0}, "requests is 0; allowed: 1 or more"),
        ({"history": -1}, "history is -1; allowed: 0 or more"),
        ({"history": 21}, r"history is 21; allowed: 0 to 20 events \(max_events\)"),
        ({"core": 4_000}, "core is 4000; allowed: "),
        ({"history": 5, "redis_url": "redis://127.0.0.1:1"}, "with a Redis of your own, its users have theirs"),
    ],
)
def test_bad_numbers_are_said(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        profile_bundle(tiny(), **wrong)


def test_a_folder_without_a_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        profile_bundle(tmp_path)


def test_a_retrieval_bundle_is_said(tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "finder")
    with pytest.raises(BundleError, match="finder: a retrieval bundle; allowed: a ranking bundle.*: with --retrieval"):
        profile_bundle(tmp_path / "finder", history=3)


def test_a_store_without_users_is_said(redis_url: str) -> None:
    with pytest.raises(InvalidInputError, match="the store has no histories of 'tiny': fill it"):
        profile_bundle(tiny(), redis_url=redis_url)


def test_a_store_that_is_away_is_an_error_and_no_profile() -> None:
    with pytest.raises(StoreUnavailableError):
        profile_bundle(tiny(), redis_url="redis://127.0.0.1:1")


def made_profile(**changes: Any) -> Profile:
    gemm = Operator(
        graph="rank", node="g", kind="Gemm", inputs=((200, 64), (64, 10), ()), output=(200, 10), us=50.0, flop=256_000
    )
    others = [replace(gemm, node=str(number), kind="Add", flop=0, us=2.0) for number in range(20)]
    stages = {stage: 0.0 for stage in STAGES} | {"store": 300.0, "user_graph": 100.0, "rank_graph": 400.0}
    profile = Profile(
        model="m",
        model_version="v",
        candidates=200,
        history_events=10.0,
        requests=5,
        degraded=0,
        core=0,
        cpu_share=0.9,
        stages_us=stages | {"total": 1_000.0},
        total_p99_us=1_500.0,
        operators=[gemm, *others],
        flop=40_000_000,
        integer_op=0,
        matmul_gflops=200.0,
        integer_matmul_gops=0.0,
    )
    return replace(profile, **changes)


def test_the_bound_is_the_arithmetic_at_the_machines_speed() -> None:
    assert made_profile().bound_us == pytest.approx(40e6 / 200e9 * 1e6)
    both = made_profile(integer_op=80_000_000, integer_matmul_gops=800.0)
    assert both.bound_us == pytest.approx(200 + 100)
    assert list(bound_lines(made_profile()))[0].endswith("40.0 MFLOP at 200 GFLOP/s = [bold]200 us[/bold]")
    assert list(bound_lines(made_profile()))[1:] == [
        "graphs: 500 us, 40% of it at that bound",
        "request: 1,000 us, 20% of it at that bound",
        "200,000 candidates/s on one core, one request after another, without gRPC",
    ]
    assert "80.0 M of int8 at 800 G/s = [bold]300 us" in next(bound_lines(both))


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_has_a_bar_for_each_stage_that_took_time(width: int) -> None:
    console = Console(width=width, record=True, file=open(os.devnull, "w"), color_system=None)
    with console.file:
        print_profile(made_profile(degraded=2), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert not {"wait", "state", "retrieve"} & set(rows)
    assert rows["rank_graph"].count("█") == 9 and "400" in rows["rank_graph"] and "40%" in rows["rank_graph"]
    assert rows["store"].count("█") == 7 and "30%" in rows["store"]
    assert "2 answers lacked a part of the store" in " ".join(lines)
    assert rows["7"].split()[1:] == ["others", "14"]  # 21 operators, 14 shown


@pytest.mark.parametrize(("cpu_share", "said"), [(0.69, True), (0.71, False)])
def test_a_core_that_was_shared_is_told(cpu_share: float, said: bool) -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    with console.file:
        print_profile(made_profile(cpu_share=cpu_share), console)
    assert ("it computed 69% of the time: the core was shared" in console.export_text()) is said


def test_json_holds_everything_and_names_units() -> None:
    found = json.loads(json.dumps(as_json(made_profile())))
    assert found["stages_us"]["store"] == 300.0 and found["bound_us"] == pytest.approx(200.0)
    assert found["operators"][0]["gflops"] == pytest.approx(256_000 / 50e-6 / 1e9)
    assert len(found["operators"]) == 21


def test_the_charts_show_stages_and_operators() -> None:
    stages, operators = charts(made_profile())
    assert list(stages.labels) == ["store", "user_graph", "rank_graph", "total"]
    assert operators.labels[0] == "rank Gemm 200x10" and operators.values[0] == 50


def test_the_command_needs_no_training_packages(tmp_path: Path) -> None:
    for name in ("torch", "onnx", "matplotlib"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ModuleNotFoundError('none', name='{name}')")
    command = [sys.executable, "-m", "recsys.cli", "profile", str(tiny()), "--history", "2", "--candidates", "3"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL"))}
    told = subprocess.run(
        [*command, "--requests", "5", "--json"],
        env={**environment, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["model_version"] == open_bundle(tiny()).manifest.version and math.isfinite(found["bound_us"])
