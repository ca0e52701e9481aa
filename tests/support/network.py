"""Hosts of a test: network namespaces with one address each, joined by veth pairs to a bridge that this process is on.

::

    this process ── bridge (.1) ──┬── veth ── host 1 (.2)
                                  ├── veth ── host 2 (.3)
                                  └── ...

With a round trip, a host's cable is not a veth pair but two TAP devices and a process that delays what goes through.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from support.paths import TESTS


def namespaces_missing() -> str | None:
    """Reason why this machine gives us no network namespaces; None: it does."""
    if shutil.which("ip") is None:
        return "no `ip` here: apt-get install iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"recsys-try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None if made.returncode == 0 else f"no network namespaces: {made.stderr.strip()}"


@dataclass(frozen=True)
class Host:
    """One host: words that run a command on it, its address, and its cable."""

    name: str
    address: str
    _outer: str

    @property
    def under(self) -> tuple[str, ...]:
        """Words before a command that is to run on this host."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable: packets are lost in both directions, and nobody is told."""
        _ip("link", "set", self._outer, "nomaster")

    def mend(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self._outer, "master", self._outer.rpartition("o")[0] + "br")

    def kill(self) -> None:
        """End all that runs on this host; its kernel still answers, as that of a machine that has started again."""
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@dataclass(frozen=True)
class Network:
    """Hosts from number 1, and the address of this process on their network."""

    address: str
    hosts: dict[int, Host]


@contextlib.contextmanager
def network(size: int, *, round_trip_s: float = 0.0) -> Iterator[Network]:
    """Hosts for the duration of a ``with`` block. Several tests at once have networks of their own.

    Args:
        size: number of hosts.
        round_trip_s: least time of a packet from one host to another and back; from this process it is half of that.
    """
    with contextlib.ExitStack() as made:
        number = _bridge(made)
        prefix, addresses = f"rs{number}", f"10.213.{number}"
        _ip("addr", "add", f"{addresses}.1/24", "dev", f"{prefix}br")
        _ip("link", "set", f"{prefix}br", "up")
        hosts = {}
        for place in range(1, size + 1):
            host = Host(f"{prefix}-{place}", f"{addresses}.{place + 1}", f"{prefix}o{place}")
            inner = f"{prefix}i{place}"
            _ip("netns", "add", host.name)
            made.callback(_ip, "netns", "del", host.name)
            if round_trip_s:
                made.enter_context(_slow_cable(host._outer, inner, round_trip_s / 4))  # four times through a cable
            else:
                _ip("link", "add", host._outer, "type", "veth", "peer", "name", inner)
                made.callback(_ip, "link", "del", host._outer)  # goes with the namespace only if nothing runs there
            _ip("link", "set", host._outer, "master", f"{prefix}br", "up")
            _ip("link", "set", inner, "netns", host.name)
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", inner)
            _ip("-n", host.name, "link", "set", inner, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
            hosts[place] = host
        yield Network(f"{addresses}.1", hosts)


@contextlib.contextmanager
def _slow_cable(outer: str, inner: str, delay_s: float) -> Iterator[None]:
    command = [sys.executable, "-m", "support.slow_cable", outer, inner, str(delay_s)]
    with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True) as cable:
        try:
            assert cable.stdout is not None and cable.stdout.readline() == "ready\n", f"no cable {outer}"
            for end in (outer, inner):
                _ip("link", "set", end, "mtu", str(_JUMBO))
            yield
        finally:
            cable.kill()


_JUMBO = 9000
"""Bytes of a frame, as in data centres: the cable's process then has a sixth of the frames to move."""


def _bridge(made: contextlib.ExitStack) -> int:
    """Make a bridge whose number no other process has; the number."""
    for number in range(1, 255):
        bridge = f"rs{number}br"
        done = subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], capture_output=True, check=False)
        if done.returncode == 0:
            made.callback(_ip, "link", "del", bridge)
            return number
    raise RuntimeError("no free bridge")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
