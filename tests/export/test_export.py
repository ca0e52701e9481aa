"""An exported bundle answers what the trained model answers, in standard ONNX, with tables shared on disk."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.paths import TESTS
from support.tiny_run import NAMESAKES, PLAIN, finished, folder_of_this_process, odd_config, odd_dataset

import recsys
import recsys.export.certificate as certificate_module
import recsys.export.onnx as export
from recsys.arrays import Float32Array
from recsys.bundle import RESAMPLES, GraphInfo, Manifest, TableInfo, open_bundle
from recsys.bundle.evaluation import read_resamples
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import map_ids
from recsys.embeddings.sharding.shard import table_weights
from recsys.errors import BundleError, ConfigError, InvalidInputError
from recsys.evaluation.evaluate import predict
from recsys.evaluation.predictions import read_predictions
from recsys.evaluation.recorded import record
from recsys.export.certificate import certify, torch_logits
from recsys.export.onnx import export_bundle
from recsys.features.columns import Column, missing_column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import FeatureSet, Numeric
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.features.names import NAMES_SUFFIX
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.training.loop import train
from recsys.training.trained import TrainedModel, build
from recsys.training.warm_start.apply import start_warm
from recsys.training.warm_start.incremental import grown_row_maps, samples_since
from recsys.training.warm_start.source import open_source


@dataclass(frozen=True)
class Exported:
    """A trained model, its data, and its bundle in ONNX Runtime as any program could load it."""

    trained: TrainedModel
    dataset: Dataset
    path: Path
    manifest: Manifest

    @property
    def features(self) -> FeatureSet:
        return self.trained.features

    def graph(self, name: str) -> onnx.ModelProto:
        return onnx.load(self.path / self.manifest.graphs[name].file, load_external_data=False)


CASES = ["movielens, prelu", "items of an id only, softmax", "features of the same name, dice"]


@cache
def exported_case(name: str) -> Exported:
    """Each is trained and exported once per process."""
    folder = folder_of_this_process()
    if name == CASES[0]:
        trained, dataset = finished().result.trained, finished().dataset
        assert trained.config.model.attention_act == "prelu" and not trained.config.model.softmax
    else:
        features = PLAIN if name == CASES[1] else NAMESAKES
        config = odd_config(softmax=True) if name == CASES[1] else odd_config(attention_act="dice")
        dataset = odd_dataset(features, folder)
        trained = train(config, dataset, folder / "run").trained
    predictions = read_predictions(finished().folder, "test") if name == CASES[0] else None
    manifest = export_bundle(trained, dataset, folder / "bundle", name="tiny", predictions=predictions)
    return Exported(trained, dataset, folder / "bundle", manifest)


def test_the_bundle_records_the_metrics_of_the_test_split_by_segment() -> None:
    run, made = finished(), exported_case(CASES[0])
    expected = record(read_predictions(run.folder, "test"))
    assert made.manifest.metrics == asdict(run.result.test)  # type: ignore[arg-type]
    assert made.manifest.evaluation == expected.evaluation
    kept = read_resamples(made.path / RESAMPLES)
    np.testing.assert_array_equal(kept[""]["auc"], expected.resamples[""]["auc"])
    assert exported_case(CASES[1]).manifest.evaluation is None  # nobody gave it predictions


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest) -> Exported:
    return exported_case(request.param)


@pytest.fixture(scope="module")
def sessions(exported: Exported) -> dict[str, onnxruntime.InferenceSession]:
    providers = ["CPUExecutionProvider"]
    return {n: onnxruntime.InferenceSession(exported.path / f"{n}.onnx", providers=providers) for n in ("user", "rank")}


def request_of(exported: Exported, *, events: int, candidates: int) -> EncodedBatch:
    """A user's features, that many events and candidates, all of them known to the model."""
    dataset = exported.dataset
    seen = dataset.split("train")
    long = seen[(dataset.history_end - dataset.history_begin)[seen] >= 3]
    batch = make_batch(dataset, long[:1])
    items = np.arange(candidates) % len(dataset.table.item_keys)
    return EncodedBatch(
        user=batch.user,
        item={name: column[items] for name, column in dataset.item.items()},
        history={name: column[len(column) - events :] for name, column in batch.history.items()},
        history_offsets=np.array([0, events]),
        labels=batch.labels,
    )


def onnx_answers(
    sessions: Mapping[str, onnxruntime.InferenceSession], request: EncodedBatch
) -> tuple[Float32Array, Float32Array]:
    """Logits and scores, as docs/specs/bundle.md says how to ask for them."""
    history = {name: c if len(c) else np.array([MISSING]) for name, c in request.history.items()}
    side = sessions["user"].run(None, {**request.user, **history})
    named = {output.name: value for output, value in zip(sessions["user"].get_outputs(), side, strict=True)}
    logits, scores = sessions["rank"].run(["logits", "scores"], {**named, **request.item})
    return logits, scores


def changed(columns: Mapping[str, Column], features: FeatureSet, key: int) -> dict[str, Column]:
    """Every id in the columns replaced by ``key``."""
    numeric = {f.name for f in (*features.user, *features.item, *features.context) if isinstance(f, Numeric)}
    return {name: c if name in numeric else np.full_like(c, key) for name, c in columns.items()}


def edge_case(case: str, exported: Exported) -> EncodedBatch:
    features = exported.features
    request = request_of(exported, events=3, candidates=7)
    if case == "one candidate":
        return request_of(exported, events=3, candidates=1)
    if case == "one event":
        return request_of(exported, events=1, candidates=5)
    if case == "no history":
        return request_of(exported, events=0, candidates=5)
    if case == "no history, one candidate":
        return request_of(exported, events=0, candidates=1)
    if case == "unknown user":
        return replace(request, user={**request.user, features.user_id.name: np.array([1 << 50])})
    if case == "unknown item":
        return replace(request, item={**request.item, features.item_id.name: np.arange(7) + (1 << 50)})
    if case == "unknown events":
        return replace(request, history={n: np.full_like(c, 200) for n, c in request.history.items()})
    if case == "keys near 2^62":
        return replace(
            request,
            user=changed(request.user, features, KEY_LIMIT - 1),
            item=changed(request.item, features, KEY_LIMIT - 2),
            history=changed(request.history, features, KEY_LIMIT - 1),
        )
    if case == "numbers far outside":
        numeric = {f.name for f in (*features.user, *features.item, *features.context) if isinstance(f, Numeric)}
        far = {
            side: {n: np.full_like(c, sign * 1e37) for n, c in columns.items() if n in numeric}
            for side, sign, columns in (("user", 1, request.user), ("item", -1, request.item))
        }
        return replace(request, user={**request.user, **far["user"]}, item={**request.item, **far["item"]})
    assert case == "missing features"
    return replace(
        request,
        user={
            **{f.name: missing_column(f, 1) for f in (*features.user, *features.context)},
            features.user_id.name: request.user[features.user_id.name],
        },
        item={
            **{f.name: missing_column(f, 7) for f in features.item},
            features.item_id.name: request.item[features.item_id.name],
        },
        history={n: c if n.endswith(features.item_id.name) else c * 0 + MISSING for n, c in request.history.items()},
    )


@pytest.mark.parametrize(
    "case",
    [
        "one candidate",
        "one event",
        "no history",
        "no history, one candidate",
        "unknown user",
        "unknown item",
        "unknown events",
        "missing features",
        "numbers far outside",
        "keys near 2^62",
    ],
)
def test_onnx_runtime_answers_what_torch_answers(
    exported: Exported, sessions: dict[str, onnxruntime.InferenceSession], case: str
) -> None:
    request = edge_case(case, exported)
    logits, scores = onnx_answers(sessions, request)
    assert logits.shape == scores.shape == (len(request.item[exported.features.item_id.name]),)
    np.testing.assert_allclose(logits, torch_logits(exported.trained, request), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_edge_cases_change_the_answer(exported: Exported, sessions: dict[str, onnxruntime.InferenceSession]) -> None:
    """Otherwise the test above would pass on a model that looks at nothing."""
    normal, _ = onnx_answers(sessions, request_of(exported, events=3, candidates=7))
    assert len(np.unique(normal)) > 1
    for case in ("unknown user", "unknown item", "unknown events", "missing features"):
        if case == "missing features" and exported.features == PLAIN:
            continue
        assert not np.allclose(onnx_answers(sessions, edge_case(case, exported))[0], normal), case


def test_a_request_is_scored_as_the_samples_it_was_trained_on(exported: Exported) -> None:
    """``torch_logits``, the reference above, equals what evaluation computes on the samples themselves."""
    trained, dataset = exported.trained, exported.dataset
    mapped = map_ids(dataset, {name: m.lookup for name, m in trained.row_maps.items()})
    chosen = dataset.split("test")[:20]
    expected = predict(trained.model, mapped, chosen, convert=trained.convert, device=trained.device)
    got = [torch_logits(trained, make_batch(dataset, chosen[i : i + 1]))[0] for i in range(len(chosen))]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_graphs_use_standard_operators_and_functions_of_these_only(exported: Exported) -> None:
    for name in ("user", "rank"):
        model = exported.graph(name)
        onnx.checker.check_model(str(exported.path / f"{name}.onnx"))
        assert {imported.domain for imported in model.opset_import} == {"", "recsys"}
        assert {node.domain for function in model.functions for node in function.node} == {""}
        called = {node.op_type for node in model.graph.node if node.domain == "recsys"}
        assert called == {function.name for function in model.functions}


def external_files(model: onnx.ModelProto) -> dict[str, str]:
    """Initialiser -> the file it lies in."""
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}["location"]
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def test_both_graphs_name_the_same_file_for_a_table_both_use(exported: Exported) -> None:
    user, rank = (external_files(exported.graph(name)) for name in ("user", "rank"))
    item_table = exported.features.item_id.table
    for kind in ("rows", "ids"):
        file = exported.manifest.tables[f"{item_table}.{kind}"].file
        assert file in user.values() and file in rank.values()
    assert {*user.values(), *rank.values()} == {info.file for info in exported.manifest.tables.values()}
    on_disk = {f"tables/{file.name}" for file in (exported.path / "tables").iterdir()}
    names = {file for file in on_disk if file.endswith(NAMES_SUFFIX)}  # what the graphs do not read
    assert on_disk - names == {info.file for info in exported.manifest.tables.values()}


def test_the_table_files_hold_the_trained_rows(exported: Exported) -> None:
    weights = table_weights(exported.trained.model)
    for table, weight in weights.items():
        info = exported.manifest.tables[f"{table}.rows"]
        stored = (exported.path / info.file).read_bytes()[info.offset_bytes :][: 4 * weight.numel()]
        np.testing.assert_array_equal(np.frombuffer(stored, dtype="<f4").reshape(info.shape), weight.numpy())
        np.testing.assert_array_equal(info.read(exported.path), weight.numpy())


def test_no_table_lies_inside_a_graph(exported: Exported) -> None:
    inside = {t.name for n in ("user", "rank") for t in exported.graph(n).graph.initializer if t.HasField("raw_data")}
    assert not {name for name in inside if name.startswith(("twin.rows.", "twin.maps."))}


def test_the_graphs_tell_nothing_about_the_machine_that_made_them(exported: Exported) -> None:
    source = Path(recsys.__file__).parents[1]
    for name in ("user", "rank"):
        content = (exported.path / f"{name}.onnx").read_bytes()
        for word in (str(source), sys.prefix, str(exported.path), "site-packages", ".py", "torch", "File ", "pkg."):
            assert word.encode() not in content, word


def test_the_manifest_declares_the_signatures_and_the_certificate(exported: Exported) -> None:
    bundle = open_bundle(exported.path, expected=exported.features)
    manifest = bundle.manifest
    assert manifest.model == "tiny"
    assert manifest.training["config"]["train"]["seed"] == exported.trained.config.train.seed
    certificate = manifest.certificate
    test_samples = len(exported.dataset.split("test"))
    assert certificate.requests == min(64, test_samples)
    assert certificate.candidates > certificate.requests
    assert 0 <= certificate.max_abs_logit_difference <= certificate.tolerance == certificate_module.TOLERANCE
    user, rank = manifest.graphs["user"], manifest.graphs["rank"]
    history = {n: i for n, i in user.inputs.items() if n.startswith("history.")}
    assert {info.shape for info in history.values()} == {("S",)}
    assert {info.shape[0] for name, info in user.inputs.items() if name not in history} == {1}
    assert {name: info.shape for name, info in rank.outputs.items()} == {"logits": ("C",), "scores": ("C",)}
    items = {n: i for n, i in rank.inputs.items() if n not in user.outputs}
    assert set(items) == {exported.features.item_id.name, *(f.name for f in exported.features.item)}
    assert {info.shape[0] for info in items.values()} == {"C"}
    assert set(user.outputs) == set(rank.inputs) - set(items)


def test_a_server_opens_the_bundle(exported: Exported) -> None:
    assert open_ranking_session(open_bundle(exported.path)).features == exported.features


# What follows is about the export around the graphs: it copies graphs instead of making them again.


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Exported:
    made = exported_case(CASES[1])

    def copied(module: torch.nn.Module, example: Any, path: Path, tables: dict[str, TableInfo]) -> GraphInfo:
        for name, info in made.manifest.tables.items():
            (path.parent / info.file).write_bytes((made.path / info.file).read_bytes())
            tables[name] = info
        path.write_bytes((made.path / path.name).read_bytes())
        return made.manifest.graphs[path.stem]

    monkeypatch.setattr(export, "write_graph", copied)
    return made


def nothing_in(folder: Path) -> bool:
    return not list(folder.iterdir())


def test_a_difference_above_the_tolerance_refuses_the_export(
    ready: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_module, "TOLERANCE", -1.0)
    with pytest.raises(
        BundleError, match=r"certificate: ONNX Runtime's logit differs from torch's by .* on sample \d+; all"
    ):
        export_bundle(ready.trained, ready.dataset, tmp_path / "bundle", name="tiny")
    assert nothing_in(tmp_path)


@pytest.mark.parametrize("table", ["item_id", "user"])
def test_graphs_of_other_weights_are_refused(ready: Exported, tmp_path: Path, table: str) -> None:
    weight = table_weights(ready.trained.model)[table]
    before = weight.clone()
    try:
        weight += 0.01
        with pytest.raises(BundleError, match=r"certificate: .*The bundle was not written"):
            export_bundle(ready.trained, ready.dataset, tmp_path / "bundle", name="tiny")
    finally:
        weight.copy_(before)
    assert nothing_in(tmp_path)


def test_answers_that_are_not_numbers_are_refused(ready: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        certificate_module, "torch_logits", lambda trained, request: np.full(1, np.nan, dtype=np.float32)
    )
    with pytest.raises(BundleError, match="differs from torch's by nan"):
        certify(ready.path, ready.trained, ready.dataset)


def test_a_model_in_training_mode_is_certified_in_evaluation_mode(ready: Exported, tmp_path: Path) -> None:
    ready.trained.model.train()
    export_bundle(ready.trained, ready.dataset, tmp_path / "bundle", name="tiny")
    assert not ready.trained.model.training


def test_the_certificate_covers_every_edge_case(ready: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[EncodedBatch] = []

    def noted(trained: TrainedModel, request: EncodedBatch) -> Float32Array:
        seen.append(request)
        return torch_logits(trained, request)

    monkeypatch.setattr(certificate_module, "torch_logits", noted)
    certify(ready.path, ready.trained, ready.dataset)
    features = ready.features
    known_users, known_items = ready.dataset.table.user_keys, ready.dataset.table.item_keys
    user_ids = [request.user[features.user_id.name] for request in seen]
    items = [request.item[features.item_id.name] for request in seen]
    assert {len(keys) for keys in items} == {1, certificate_module.CANDIDATES}
    assert any(request.history_offsets[-1] == 0 for request in seen)
    assert any(request.history_offsets[-1] > 1 for request in seen)
    assert any(key[0] not in known_users for key in user_ids)
    assert any(key not in known_items for keys in items for key in keys)
    assert any(request.user["age"][0] == -1.0 for request in seen)


def test_an_existing_path_is_refused_unless_overwritten(ready: Exported, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    first = export_bundle(ready.trained, ready.dataset, path, name="first")
    with pytest.raises(InvalidInputError, match="exists; choose another folder, or replace it with overwrite=True"):
        export_bundle(ready.trained, ready.dataset, path, name="second")
    assert open_bundle(path).manifest == first
    export_bundle(ready.trained, ready.dataset, path, name="second", overwrite=True)
    assert open_bundle(path).manifest.model == "second"
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_overwrite_keeps_the_old_bundle(
    ready: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    old = export_bundle(ready.trained, ready.dataset, path, name="old")

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "certify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(ready.trained, ready.dataset, path, name="new", overwrite=True)
    assert open_bundle(path).manifest == old
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_an_export_killed_half_way_leaves_no_bundle_and_the_next_one_cleans_up(ready: Exported, tmp_path: Path) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from support.tiny_run import PLAIN, odd_dataset
        import recsys.export.onnx as export
        from recsys.training.trained import load_run

        def half(module, example, path, tables):
            path.write_bytes(b"half a graph")
            print("here", flush=True)
            time.sleep(600)

        export.write_graph = half
        folder = Path(sys.argv[2])
        export.export_bundle(load_run(Path(sys.argv[1])), odd_dataset(PLAIN, folder), folder / "out" / "b", name="b")
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    command += [str(ready.path.with_name("run")), str(tmp_path)]
    path = [str(TESTS), str(Path(recsys.__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(path)}) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "here\n"
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    out = tmp_path / "out"
    assert not (out / "b").exists()
    assert not nothing_in(out)
    export_bundle(ready.trained, ready.dataset, out / "b", name="b")
    assert [file.name for file in out.iterdir()] == ["b"]
    open_bundle(out / "b")


def test_only_int64_and_float32_cross_the_graphs_borders(exported: Exported) -> None:
    tensors = [t for g in exported.manifest.graphs.values() for t in (*g.inputs.values(), *g.outputs.values())]
    assert {tensor.dtype for tensor in tensors} == {"int64", "float32"}


def test_the_certificate_covers_the_serving_encoder(ready: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is encoded otherwise than training did is refused, whatever part of it."""
    true = certificate_module.encode_request

    def forgets_the_newest_event(*args: Any, events: Any, **others: Any) -> Any:
        return true(*args, events=None if events is None else events[:-1], **others)

    def forgets_the_user(*args: Any, user_columns: Any, **others: Any) -> Any:
        return true(*args, user_columns={}, **others)

    for wrong in (forgets_the_newest_event, forgets_the_user):
        with monkeypatch.context() as patch, pytest.raises(BundleError, match="certificate: "):
            patch.setattr(certificate_module, "encode_request", wrong)
            certify(ready.path, ready.trained, ready.dataset)


def test_a_model_is_not_certified_on_other_data(ready: Exported) -> None:
    samples = ready.dataset.samples
    other = replace(ready.dataset, samples=replace(samples, label=1 - samples.label))
    with pytest.raises(ConfigError, match="the model was trained on other data"):
        certify(ready.path, ready.trained, other)


def test_a_new_run_begins_with_the_rows_and_layers_of_a_bundle(exported: Exported) -> None:
    config, row_maps = exported.trained.config, exported.trained.row_maps
    new = build(config, exported.features, row_maps, device=torch.device("cpu"))
    optimizer = torch.optim.AdamW(new.model.module.net.parameters())
    start = start_warm(open_source(exported.path), new, optimizer)
    ours, theirs = table_weights(new.model), table_weights(exported.trained.model)
    for table, weights in theirs.items():
        assert torch.equal(ours[table], weights), table
    state, trained = new.model.module.net.state_dict(), exported.trained.model.module.net.state_dict()
    assert {"attention.second", "attention.last"} <= set(start.layers_taken)
    for name, value in trained.items():
        if name.rpartition(".")[0] in start.layers_taken:
            assert torch.equal(state[name], value), name
    assert not start.with_optimizer and not optimizer.state_dict()["state"]


def test_training_since_a_moment_goes_on_with_a_bundles_ids() -> None:
    exported = exported_case(CASES[0])
    source, newest = open_source(exported.path), samples_since(exported.dataset, "1d")
    grown = grown_row_maps(exported.trained.config, source.row_maps, newest)
    for table, row_map in exported.trained.row_maps.items():
        assert row_map.ids is not None
        keys, rows = row_map.ids.entries()
        np.testing.assert_array_equal(grown[table].lookup(keys)[:, 0], rows)
