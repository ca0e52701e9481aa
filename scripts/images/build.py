"""From a Dockerfile of ours to an OCI image, and to a root that runs, without a daemon."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from pathlib import Path

from images.bases import ROOT, base_root, wheels
from images.container import Mount
from images.dockerfile import read_stages
from images.steps import Built, Context, carry_out

KINDS = ("serve", "train")


def arguments() -> dict[str, str]:
    """Arguments of both Dockerfiles for the commit that is checked out."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    lines = (ROOT / "recsys" / "__init__.py").read_text().splitlines()
    (version,) = [line.split('"')[1] for line in lines if line.startswith("__version__")]
    seconds = git("log", "-1", "--format=%ct")
    created = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return {
        "VERSION": version,
        "REVISION": git("rev-parse", "HEAD"),
        "CREATED": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "SOURCE_DATE_EPOCH": seconds,
    }


def commands() -> list[str]:
    """The lines that build both images where there is Docker, or Podman or Buildah under that name."""
    given = " ".join(f"--build-arg {key}={value}" for key, value in arguments().items())
    return [
        f"docker build -f deploy/docker/{kind}/Dockerfile -t recsys-{kind}:{arguments()['VERSION']} {given} ."
        for kind in KINDS
    ]


def build(kind: str, work: Path) -> Path:
    """Build an image without a daemon; returns a folder that runc runs, unpacked from it.

    Args:
        kind: ``serve`` or ``train``.
        work: an empty folder; the image is its ``image``, tag ``recsys``.

    Raises:
        OSError: a base or a package could not be had.
        subprocess.CalledProcessError: a RUN failed; its output is in the error's ``output``.
    """
    packages = wheels(kind)
    pip = work / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    _, stages = read_stages(ROOT / "deploy" / "docker" / kind / "Dockerfile")
    built: dict[str, Built] = {}
    for stage in stages:
        # BUILD_IMAGE and BASE_IMAGE: the stage's base is named by the argument.
        source = base_root(stage.base.removeprefix("${").removesuffix("_IMAGE}").lower())
        folder = work / (stage.name or "final")
        folder.mkdir()
        if stage is stages[-1]:
            _image(work, source, folder)
            root = folder / "rootfs"
        else:
            root = folder / "root"
            subprocess.run(["cp", "-a", str(source), str(root)], check=True)
        context = Context(
            source=ROOT,
            stages=built,
            arguments=arguments(),
            secrets={"pip": pip},
            mounts=[Mount(source=packages, target="/wheels")],
        )
        built[stage.name] = carry_out(stage, root, context)
    final = built[stages[-1].name]
    for name in built:
        if built[name] is not final:
            shutil.rmtree(built[name].root)
    return _pack(work, final)


def _umoci(*words: str) -> None:
    subprocess.run(["umoci", *words], check=True, capture_output=True)


def _image(work: Path, base: Path, folder: Path) -> None:
    """An image of the base, and its root in the folder, from which the next layer is counted."""
    kept = base.with_name(base.name + ".image")
    if not kept.exists():
        half = base.with_name(base.name + ".image.half")
        for old in (half, base.with_name(base.name + ".unpacked")):
            shutil.rmtree(old, ignore_errors=True)
        _umoci("init", "--layout", str(half))
        _umoci("new", "--image", f"{half}:base")
        unpacked = base.with_name(base.name + ".unpacked")
        _umoci("unpack", "--image", f"{half}:base", str(unpacked))
        subprocess.run(["cp", "-a", f"{base}/.", str(unpacked / "rootfs")], check=True)
        _umoci("repack", "--image", f"{half}:base", str(unpacked))
        shutil.rmtree(unpacked)
        half.rename(kept)
    shutil.copytree(kept, work / "image")
    folder.rmdir()
    _umoci("unpack", "--image", f"{work / 'image'}:base", str(folder))


def _pack(work: Path, built: Built) -> Path:
    image = f"{work / 'image'}:recsys"
    _umoci("repack", "--image", image, str(built.root.parent))
    said = ["--config.user", built.user, "--config.workingdir", built.folder, "--config.stopsignal", built.stop_signal]
    for flag, values in (
        ("env", [f"{key}={value}" for key, value in built.environment.items()]),
        ("label", [f"{key}={value}" for key, value in built.labels.items()]),
        ("exposedports", built.ports),
        ("entrypoint", built.entrypoint),
        ("cmd", built.cmd),
    ):
        said += [word for value in values for word in (f"--config.{flag}", value)]
    created = built.labels["org.opencontainers.image.created"]
    _umoci("config", "--image", image, "--created", created, *said)
    shutil.rmtree(built.root.parent)
    bundle = work / "bundle"
    _umoci("unpack", "--image", image, str(bundle))
    facts = {"entrypoint": built.entrypoint, "cmd": built.cmd, "labels": built.labels, "user": built.user}
    (bundle / "image.json").write_text(json.dumps(facts))
    return bundle
