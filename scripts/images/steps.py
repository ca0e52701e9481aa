"""Instructions of a stage, carried out on a root."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.container import Limits, Mount, configured
from images.dockerfile import Instruction, Stage, pairs, substitute, words

CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID")
"""Of root in a build, Docker's but those for networks and devices."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(kw_only=True)
class Built:
    """A stage: its root, and what its image says of how to run it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    labels: dict[str, str] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)
    folder: str = "/"
    user: str = ""
    stop_signal: str = ""
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Inputs of a build: the repository, stages before, arguments, and what is mounted for the time of a RUN."""

    source: Path
    stages: Mapping[str, Built]
    arguments: Mapping[str, str]
    secrets: Mapping[str, Path]
    mounts: Sequence[Mount] = ()


def carry_out(stage: Stage, root: Path, context: Context) -> Built:
    """Carry out a stage's instructions on its root.

    Raises:
        subprocess.CalledProcessError: a RUN failed; its output is in the error's ``output``.
        ValueError: an instruction has a form that is not known here.
    """
    built = Built(root=root)
    declared: dict[str, str] = {}
    for step in stage.instructions:
        rest = substitute(step.rest, {**declared, **built.environment})
        match step.name:
            case "ARG":
                name, _, default = rest.partition("=")
                if value := context.arguments.get(name, default):
                    declared[name] = value
            case "ENV":
                built.environment |= pairs(rest)
            case "LABEL":
                built.labels |= pairs(rest)
            case "EXPOSE":
                built.ports += rest.split()
            case "USER":
                built.user = rest
            case "STOPSIGNAL":
                built.stop_signal = rest
            case "WORKDIR":
                built.folder = rest
                _inside(root, rest).mkdir(parents=True, exist_ok=True)
            case "ENTRYPOINT":
                built.entrypoint = words(rest)
            case "CMD":
                built.cmd = words(rest)
            case "COPY":
                _copy(step, rest.split(), built, context)
            case "RUN":
                _run(step, rest, built, declared, context)
    return built


def _copy(step: Instruction, paths: list[str], built: Built, context: Context) -> None:
    *sources, target = paths
    if set(step.options) - {"from"}:
        raise ValueError(f"COPY with {dict(step.options)}; allowed: --from")
    into = _inside(built.root, str(Path(built.folder) / target))
    for source in sources:
        if "from" in step.options:
            found = _inside(context.stages[step.options["from"]].root, source)
        else:
            found = context.source / source
        if found.is_dir():
            listed = _ignored(context.source) if "from" not in step.options else None
            shutil.copytree(found, into, symlinks=True, ignore=listed, dirs_exist_ok=True)
        else:
            file = into / found.name if target.endswith("/") else into
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, file)


def _ignored(source: Path) -> Any:
    """Leave out what ``.dockerignore`` names anywhere (``**/NAME``)."""
    lines = (source / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    return lambda folder, names: {name for name in names for pattern in patterns if fnmatch.fnmatch(name, pattern)}


def _run(step: Instruction, line: str, built: Built, declared: Mapping[str, str], context: Context) -> None:
    """Run a line as Docker does, but without any network."""
    mounts = [*context.mounts]
    for key, value in step.options.items():
        if key != "mount":
            raise ValueError(f"RUN with --{key}; allowed: --mount=type=secret")
        wanted = dict(part.split("=", 1) for part in value.split(","))
        if secret := context.secrets.get(wanted["id"]):
            mounts.append(Mount(source=secret, target=wanted["target"]))
    bundle = built.root.parent / "run"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").unlink(missing_ok=True)
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    config = configured(
        json.loads((bundle / "config.json").read_text()),
        mounts,
        Limits(read_only=False, capabilities=CAPABILITIES),
    )
    config["root"]["path"] = str(built.root)
    config["linux"]["namespaces"].append({"type": "network"})
    config["process"]["args"] = ["/bin/sh", "-c", line]
    config["process"]["cwd"] = built.folder
    config["process"]["env"] = [f"{key}={value}" for key, value in {**declared, **built.environment}.items()]
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"recsys-build-{built.root.parent.name}-{os.getpid()}"  # a build that was killed leaves its name taken
    made = subprocess.run(
        ["runc", "run", "--bundle", str(bundle), name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if made.returncode:
        print(made.stdout, file=sys.stderr)
    made.check_returncode()


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")
