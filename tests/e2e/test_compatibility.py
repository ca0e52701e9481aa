"""What an earlier version wrote is read, served and gone on with as it was: ``tests/golden/compatibility``.

Answers, states and metrics are compared to the last bit where processor, ONNX Runtime and torch are those of the
machine that wrote them, elsewhere to ``RELATIVE``: kernels add in the order that suits a processor. Bytes that hold no
such sums (histories, features, manifests) are equal everywhere.
"""

import base64
import json
import re
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import TESTS
from support.replay import NOW_MS, arithmetic, replay, stored

from recsys.bundle import MANIFEST, Bundle, bundle_writer, open_bundle
from recsys.client import Client
from recsys.data.log.event_table import open_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import open_samples
from recsys.export.onnx import export_bundle
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.values.state import unpack_state
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.training.loop import train
from recsys.training.run.folder import read_run
from recsys.training.trained import evaluate_run

WRITTEN = TESTS / "golden" / "compatibility"
FACTS = json.loads((WRITTEN / "answers.json").read_text())
EXACT = FACTS["arithmetic"] == arithmetic()
RELATIVE = 1e-6
FP16 = 2.0**-9
"""Sums of a state are rounded to fp16 at each write: the last bit or two may differ."""

NEWER_FIELDS = {"release", "retrieval_release", "skipped", "fallback"}
EMPTY_FIELDS = {"damaged", "filter", "missing_shards", "rules", "shard"}
"""Fields that clients got later, too: what was written then is whole, so they say nothing."""


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset(open_event_table(WRITTEN / "data" / "events"), open_samples(WRITTEN / "data" / "samples"))


def near(value: Any) -> Any:
    """The value for comparison: floats to RELATIVE unless this machine computes as that one did."""
    if isinstance(value, float):
        return value if EXACT else pytest.approx(value, rel=RELATIVE)
    if isinstance(value, list):
        return [near(part) for part in value]
    return {name: near(part) for name, part in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", ["din", "sdim", "finder"])
def test_a_bundle_opens_and_its_manifest_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    bundle = open_bundle(WRITTEN / name)
    with bundle_writer(tmp_path / name) as writer:
        for file in bundle.manifest.files:
            shutil.copyfile(WRITTEN / name / file, writer.folder / file)
        writer.finish(bundle.manifest)
    assert (tmp_path / name / MANIFEST).read_bytes() == (WRITTEN / name / MANIFEST).read_bytes()


@pytest.mark.parametrize("name", ["din", "sdim"])
def test_a_bundle_and_a_redis_folder_answer_as_they_did(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW_MS * 1_000_000)
    shutil.copytree(WRITTEN / "redis", tmp_path / "redis")
    answers = []
    with EmbeddedRedis(tmp_path / "redis") as server:
        for calls in FACTS["rounds"]:
            # States are written behind the answers; a server that stops has written them all.
            settings = Settings(
                bundle=WRITTEN / name,
                retrieval=WRITTEN / "finder",
                port=0,
                redis_url=server.url,
                store_timeout_ms=10_000,
            )
            with running_server(settings) as running, Client(running.address, timeout_s=60) as client:
                answers.append(replay(client, calls))
        left = stored(server.url)
    expected = FACTS["served"][name]
    assert without_newer_fields(answers) == near(expected["answers"])
    assert_stored(left, {**FACTS["stored"], **expected["stored"]}, open_bundle(WRITTEN / name))


def without_newer_fields(value: Any) -> Any:
    """The answers without the fields that clients got later; one that should be empty and is not stays."""
    if isinstance(value, list):
        return [without_newer_fields(part) for part in value]
    if isinstance(value, dict):
        newer = NEWER_FIELDS | {name for name in EMPTY_FIELDS if not value.get(name)}
        return {name: without_newer_fields(part) for name, part in value.items() if name not in newer}
    return value


def without_times(offsets: dict[str, str]) -> dict[str, str]:
    """The last offset of each source without what follows its digits since: a blank, and when it was applied."""
    texts = {source: base64.b64decode(text) for source, text in offsets.items()}
    assert all(re.fullmatch(rb"\d{20}( \d+)?", text) for text in texts.values()), texts
    return {source: base64.b64encode(text[:20]).decode() for source, text in texts.items()}


def assert_stored(left: dict[str, Any], expected: dict[str, Any], bundle: Bundle) -> None:
    """Every key and byte is as it was but for the times of offsets; the sums in states are near."""
    assert left.keys() == expected.keys()
    for key, value in expected.items():
        if key.endswith(":o"):
            assert without_times(left[key]) == value, key
            continue
        if EXACT or bundle.manifest.state is None or not key.endswith(f":s:{bundle.manifest.state_version}"):
            assert left[key] == value, key
            continue
        size = {"rows": bundle.manifest.state.rows, "width": bundle.manifest.state.width}
        ours, theirs = (
            unpack_state(base64.b64decode(text), version=bundle.manifest.state_version, **size)._asdict()
            for text in (left[key], value)
        )
        np.testing.assert_allclose(ours.pop("sums"), theirs.pop("sums"), rtol=FP16, atol=FP16)
        assert ours == theirs


def test_a_run_that_was_broken_off_goes_on_to_the_same_end(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(WRITTEN / "run", tmp_path / "run")
    config, _, _ = read_run(tmp_path / "run")
    steps: list[int] = []
    result = train(config, dataset, tmp_path / "run", resume=True, report=lambda p: steps.append(p.step))
    assert steps[0] == 7, "it goes on from the checkpoint after six steps"
    assert result.validation is not None and result.test is not None
    evaluated = evaluate_run(result.trained, dataset, "test")
    assert evaluated is not None
    found = {"validation": asdict(result.validation), "test": asdict(result.test), "evaluated": asdict(evaluated)}
    then = {split: {name: found[split][name] for name in metrics} for split, metrics in FACTS["run"].items()}
    assert then == near(FACTS["run"])  # metrics that came since are not in it


@pytest.mark.prove
@pytest.mark.skipif(not EXACT, reason="written on a machine that computes otherwise")
def test_its_bundle_is_the_same_byte_for_byte(dataset: Dataset, tmp_path: Path) -> None:
    """The manifest but for its date, the commit that trained, and its digest."""
    shutil.copytree(WRITTEN / "run", tmp_path / "run")
    config, _, _ = read_run(tmp_path / "run")
    trained = train(config, dataset, tmp_path / "run", resume=True).trained
    export_bundle(trained, dataset, tmp_path / "din", name="din")
    files = {path.relative_to(WRITTEN / "din") for path in (WRITTEN / "din").rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "din") for path in (tmp_path / "din").rglob("*") if path.is_file()} == files
    for file in files - {Path(MANIFEST)}:
        assert (tmp_path / "din" / file).read_bytes() == (WRITTEN / "din" / file).read_bytes(), file
    ours, theirs = (json.loads((folder / "din" / MANIFEST).read_text()) for folder in (tmp_path, WRITTEN))
    for manifest in (ours, theirs):
        del manifest["created_at"], manifest["manifest_sha256"], manifest["training"]["commit"]
    assert ours == theirs
