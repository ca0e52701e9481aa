"""The images, built without a daemon and run by runc, for tests; ``scripts/images`` says how."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from images.build import build
from images.container import Container, Limits, Mount, missing, start

_AS_A_POD = Limits()
READY = "/tmp/ready.json"
SHELLS = ("sh", "dash", "bash", "rbash")

in_containers = pytest.mark.skipif(missing() is not None, reason=missing() or "")

_numbers = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Image:
    """An unpacked image. Its shells are gone: nothing of ours needs one."""

    bundle: Path

    @property
    def root(self) -> Path:
        return self.bundle / "rootfs"


def built(kind: str, folder: Path) -> Image:
    """Build an image in an empty folder, and take its shells away; skips where its parts cannot be had."""
    try:
        image = Image(bundle=build(kind, folder))
    except OSError as error:
        pytest.skip(f"a base or a package could not be had: {error}")
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error}\n{error.output}")
    for name in SHELLS:
        for place in ("bin", "usr/bin"):
            (image.root / place / name).unlink(missing_ok=True)
    return image


@contextlib.contextmanager
def container(
    image: Image,
    *mounts: Mount,
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    limits: Limits = _AS_A_POD,
) -> Iterator[Container]:
    """A container of the image, killed at the end if it still runs."""
    name = f"recsys-test-{os.getpid()}-{next(_numbers)}"
    running = start(image.bundle, name, arguments=arguments, environment=environment, mounts=mounts, limits=limits)
    try:
        yield running
    finally:
        running.end()
        for pipe in (running.process.stdout, running.process.stderr):
            assert pipe is not None
            pipe.close()


def ended(running: Container, *, limit_s: float = 120.0) -> tuple[int, str]:
    """Exit code, and what was printed, of a container that ends by itself."""
    out, err = running.process.communicate(timeout=limit_s)
    return running.process.returncode, out + err


def started(running: Container, *, workers: int = 1, limit_s: float = 120.0) -> None:
    """Wait until a server, with all its workers, serves; it is told to say so in ``READY``."""
    deadline_s = time.monotonic() + limit_s
    while True:
        assert running.process.poll() is None, running.process.communicate()
        assert time.monotonic() < deadline_s, "it does not serve"
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            # What the container sees, through its first process.
            said = json.loads(Path(f"/proc/{first_process(running)}/root{READY}").read_text())
            if len(said.get("workers", [0])) == workers:
                return
        time.sleep(0.05)


def first_process(running: Container) -> int:
    """Number, on this machine, of a container's first process."""
    said = subprocess.run(["runc", "state", running.name], capture_output=True, text=True, check=True).stdout
    return int(json.loads(said)["pid"])


def listing(root: Path) -> dict[str, tuple[int, int, int, int]]:
    """Mode, owner, size and time of everything in a root; mount points as they are in it."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
    return found
