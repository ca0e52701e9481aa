"""Manifests in deploy/k8s agree with the rest of the repository: alerts, settings, commands, figures."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from manifest_checks.manifests import Workload
from manifest_checks.render import load
from support.manifests.overlays import K8S, OPTIONS, OVERLAYS, rendered
from support.manifests.planting import Fault, first, planted
from support.paths import ROOT
from typer.main import get_command

from recsys.cli import app
from recsys.features.feature_set import FeatureSet
from recsys.pipeline.settings import read_settings

NOTHING = Fault("none", "prod", "", lambda objects: None)
FILES = sorted(path for path in K8S.rglob("*") if path.suffix in (".yaml", ".toml"))


def programs() -> list[tuple[str, list[str]]]:
    """Command lines of recsys in all overlays, torchrun's among them, with where they are."""
    found = []
    for name in (*OVERLAYS, *OPTIONS):
        manifests = load(rendered(name))
        words = {w.where: _words(w) for w in manifests.workloads()}
        for job in manifests.of_kind("TrainJob"):
            words["TrainJob"] = job["spec"]["trainer"]["args"]
        for where, given in words.items():
            if "recsys.cli" in given:
                given = given[given.index("recsys.cli") + 1 :]
            if given and given[0] in COMMANDS:
                found.append((f"{name} {where}", given))
    return found


def _words(workload: Workload) -> list[str]:
    return [str(word) for c in workload.containers for word in c.get("args", ())]


COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def test_the_alerts_are_those_of_the_monitoring_folder() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "generate_prometheus_rule.py"))
    assert script["OUT"].read_text() == script["prometheus_rule"]()
    groups = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yml").read_text())["groups"]
    assert yaml.safe_load(script["OUT"].read_text())["spec"]["groups"] == groups


def test_commands_take_what_the_manifests_give_them() -> None:
    checked = programs()
    assert {given[0] for _, given in checked} >= {"serve", "ingest", "train", "pipeline"}
    for where, (name, *arguments) in checked:
        try:
            COMMANDS[name].make_context(name, list(arguments))
        except Exception as error:
            pytest.fail(f"{where}: {error}")


def test_a_misspelt_option_would_be_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        COMMANDS["ingest"].make_context("ingest", ["--redis-stram=events"])


def test_the_examples_of_a_feature_set_and_of_a_loop_are_such() -> None:
    text = (K8S / "base" / "config" / "features.json").read_text()
    assert FeatureSet.from_json(text).name == "shop"
    loop = read_settings(K8S / "base" / "config" / "shop.toml")
    mounted = {mount["mountPath"] for mount in first(planted(NOTHING), "CronJob/recsys-loop")["volumeMounts"]}
    for path in (loop.folder, *loop.data.log, loop.data.features, loop.release.store):
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounted), path


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(K8S)))
def test_figures_that_a_comment_names_were_measured(file: Path) -> None:
    measured = {
        json.loads(line)["figure"]
        for results in (ROOT / "benchmarks" / "results").glob("*.jsonl")
        for line in results.read_text().splitlines()
    }
    prefixes = "|".join(sorted({figure.partition(".")[0] for figure in measured}))
    comments = " ".join(re.findall(r"#(.*)", file.read_text()))
    named = set(re.findall(rf"\b(?:{prefixes})\.[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?", comments))
    others = {name for name in named if name.endswith((".md", ".yaml", ".py"))} | {"train.checkpoint_steps"}
    assert named - others <= measured


def test_no_folder_has_too_many_files() -> None:
    files = Counter(path.parent for path in K8S.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {str(folder): count for folder, count in files.items() if count > 15} == {}


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    command = [sys.executable, str(K8S / "check.py")]
    clean = subprocess.run([*command, str(K8S / "overlays" / "gpu")], capture_output=True, text=True, check=False)
    assert (clean.returncode, clean.stdout) == (0, "1 overlays, 0 problems\n"), clean.stderr
    broken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lost"}, "spec": {"selector": {"app": "x"}}}
    (tmp_path / "lost.yaml").write_text(json.dumps(broken))
    (tmp_path / "kustomization.yaml").write_text("resources: [lost.yaml]\n")
    found = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert f"{tmp_path}: Service/lost: selector {{'app': 'x'}} finds no pods (services_reach_pods)" in found.stdout
