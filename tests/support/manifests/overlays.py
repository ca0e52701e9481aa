"""Our overlays, rendered and checked; also with components that they do not have by themselves."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from manifest_checks import Finding, check
from manifest_checks import settings as server_settings
from manifest_checks.render import load, read_outside, render

from support.paths import ROOT

K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("dev", "prod", "gpu")
OPTIONS = {
    "prod-in-flight": ("prod", "in_flight"),
    "gpu-trainjob": ("gpu", "trainjob"),
    "dev-training": ("dev", "training"),
}
"""Overlays with a component more, or another one: name -> overlay, component."""


def _kustomization(folder: Path, overlay: str, component: str) -> Path:
    """An overlay with one component more; the GPU overlay has it in place of its own."""
    here = os.path.relpath(K8S, folder.resolve())  # kustomize takes no absolute paths
    written = {
        "namespace": "recsys-dev" if overlay == "dev" else "recsys",
        "resources": [] if overlay == "gpu" else [f"{here}/overlays/{overlay}"],
        "components": [f"{here}/components/{component}"],
        "images": [{"name": "recsys-train", "newTag": "1"}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(written))  # JSON is YAML
    return folder


@cache
def rendered(name: str) -> str:
    """The YAML of an overlay, or of one of :data:`OPTIONS`."""
    if name not in OPTIONS:
        return render(K8S / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        return render(_kustomization(Path(folder), *OPTIONS[name]))


def outside(name: str) -> frozenset[str]:
    """Objects that an overlay expects on the cluster."""
    return read_outside(K8S / "overlays" / OPTIONS.get(name, (name, ""))[0])


def checked(text: str, name: str) -> Sequence[Finding]:
    """Findings in rendered YAML, the server's settings among them."""
    return check(load(text, outside(name)), server_settings.RULES)
