"""Containers by runc: a root, what is mounted into it, and the limits that a pod would have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("runc", "umoci", "debootstrap")


def missing() -> str | None:
    """The reason why nothing can be built or run here, if there is one."""
    lacking = [name for name in PROGRAMS if not (shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin"))]
    if os.name != "posix" or os.geteuid() != 0:
        return "roots are made, and containers run, by root"
    return f"no {', '.join(lacking)} here: apt-get install {' '.join(lacking)}" if lacking else None


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder or file of the machine at a path of the container; without a source a tmpfs of ``size_bytes``."""

    target: str
    source: Path | None = None
    read_only: bool = True
    size_bytes: int = 64 << 20

    def entry(self) -> dict[str, Any]:
        """The mount, in the words of the OCI runtime specification."""
        if self.source is None:
            options = ["nosuid", "nodev", "mode=1777", f"size={self.size_bytes}"]
            return {"destination": self.target, "type": "tmpfs", "source": "tmpfs", "options": options}
        options = ["rbind", "ro" if self.read_only else "rw"]
        return {"destination": self.target, "type": "bind", "source": str(self.source), "options": options}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Rights of a container, as in a pod of ours: nothing is written but to mounts, no capabilities, no new ones.

    Its network is the machine's: tests call it at 127.0.0.1.
    """

    memory_bytes: int | None = None
    read_only: bool = True
    capabilities: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container that runs; its name is runc's."""

    name: str
    process: subprocess.Popen[str]
    config: Mapping[str, Any] = field(repr=False)

    def signal(self, number: str) -> None:
        """Send a signal to its first process, as kubelet does."""
        subprocess.run(["runc", "kill", self.name, number], check=True, capture_output=True)

    def end(self) -> None:
        """Kill whatever is left of it."""
        subprocess.run(["runc", "delete", "--force", self.name], check=False, capture_output=True)
        self.process.wait()


def start(
    bundle: Path,
    name: str,
    *,
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    mounts: Sequence[Mount] = (),
    limits: Limits = Limits(),
) -> Container:
    """Start what the image says, with other arguments and more variables if given; output goes to pipes.

    Args:
        bundle: a folder of umoci's: a root and a ``config.json``.
        name: of the container, free on this machine.
        arguments: in place of the image's own CMD, which follow its entry point.
        environment: beside the image's own.
        mounts: beside /proc, /dev and /sys.
        limits: what it may do.
    """
    image = json.loads((bundle / "image.json").read_text())
    config = configured(json.loads((bundle / "config.json").read_text()), mounts, limits)
    process = config["process"]
    config["root"]["path"] = str(bundle / "rootfs")
    process["args"] = [*image["entrypoint"], *(image["cmd"] if arguments is None else arguments)]
    process["env"] += [f"{key}={value}" for key, value in (environment or {}).items()]
    running = bundle.parent / f"{bundle.name}-{name}"
    running.mkdir()
    (running / "config.json").write_text(json.dumps(config))
    command = ["runc", "run", "--bundle", str(running), name]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return Container(name=name, process=started, config=config)


def configured(config: dict[str, Any], mounts: Sequence[Mount], limits: Limits) -> dict[str, Any]:
    """A runtime configuration of umoci's or runc's with these mounts and limits."""
    process, linux = config["process"], config["linux"]
    process["terminal"] = False
    process["noNewPrivileges"] = True
    process["capabilities"] = {
        kind: list(limits.capabilities) for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    config["root"]["readonly"] = limits.read_only
    system = ("/proc", "/dev", "/dev/pts", "/dev/shm", "/sys")
    config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] in system]
    config["mounts"] += [mount.entry() for mount in mounts]
    linux["namespaces"] = [space for space in linux["namespaces"] if space["type"] not in ("network", "user")]
    linux.pop("uidMappings", None)
    linux.pop("gidMappings", None)
    linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits.memory_bytes is not None:
        linux["resources"]["memory"] = {"limit": limits.memory_bytes}
    return config
