"""Bases in place of the images that the Dockerfiles begin with, and the packages that a build installs.

Both are made once, from the mirrors that debootstrap and pip are configured for, and kept in a folder. Builds
themselves need no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SUITE = "bookworm"
"""Debian 12, as in the names of the base images. Its Python is 3.11, too."""

ADDED = {
    "build": "python3,python3-venv,g++",
    "base": "python3",
}
"""Debian's packages that make a minimal root stand for an image of Python."""

REQUIREMENTS = {
    "serve": (("serve.txt", "serve-extras.txt"),),
    "train": (("torch.txt",), ("train-cpu.txt", "serve-extras.txt"), ("torchrec.txt",)),
}


def cache() -> Path:
    """Folder where both are kept: RECSYS_IMAGE_CACHE, else one in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recsys-images"
    return Path(os.environ.get("RECSYS_IMAGE_CACHE") or default)


def base_root(kind: str) -> Path:
    """A root of Debian's with a Python: ``build``, which can compile, or ``base``.

    Raises:
        OSError: debootstrap failed, for which its last lines are quoted.
    """
    root = cache() / f"{SUITE}-{kind}-{_digest(ADDED[kind])}"
    if not root.exists():
        half = root.with_name(root.name + ".half")
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={ADDED[kind]}", SUITE, str(half)]
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        made = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if made.returncode:
            raise OSError(f"debootstrap: {' '.join(made.stdout.splitlines()[-3:])}")
        half.rename(root)
    return root


def wheels(kind: str, *, python: str = "3.11") -> Path:
    """The wheels of an image's requirements, from wherever pip takes them.

    Raises:
        OSError: pip could not get one; its last lines are quoted.
    """
    files = [[ROOT / "requirements" / name for name in group] for group in REQUIREMENTS[kind]]
    folder = cache() / f"wheels-{kind}-{python}-{_digest(*(file.read_text() for group in files for file in group))}"
    if not folder.exists():
        half = folder.with_name(folder.name + ".half")
        half.mkdir(parents=True, exist_ok=True)
        for group in [*([f"-r{file}" for file in group] for group in files), _unconditional()]:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(half)]
            command += ["--only-binary=:all:", f"--python-version={python}", *map(str, group)]
            made = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            if made.returncode:
                raise OSError(f"pip: {' '.join(made.stderr.splitlines()[-3:])}")
        half.rename(folder)
    return folder


def _unconditional() -> list[str]:
    """Pins that this run's Python would leave out, and Debian's does not; and setuptools, which builds the wheel."""
    lines = [
        line for name in ("serve.txt", "dev.txt") for line in (ROOT / "requirements" / name).read_text().split("\n")
    ]
    return [
        line.partition(";")[0] for line in lines if "python_full_version" in line or line.startswith("setuptools==")
    ]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
