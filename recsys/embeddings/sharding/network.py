"""Network of a run over several hosts: the interface that others reach this host at, and links that break.

gloo talks at the address of this host's name, which on many hosts is 127.0.0.1 (``/etc/hosts``), and its connections
wait for ever for a host that was cut off: nobody closes them. Both are settled here, by the kernel's own means.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import struct

from recsys.errors import ConfigError

LOST_S = 20
"""A host from which no packet came for so long is lost."""

_PR_SET_PDEATHSIG = 1
_SIOCGIFADDR = 0x8915
"""Linux: a signal at the end of the parent; the IPv4 address of an interface."""


def spans_hosts() -> bool:
    """True if torchrun started processes of this run on other hosts too."""
    return os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")


def end_with_parent() -> None:
    """Have the kernel end this process when torchrun is killed: it would train on beside the run that begins anew."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # just then
        os.kill(os.getpid(), signal.SIGKILL)


def interface_to(host: str) -> str | None:
    """Name of the interface whose address this host has towards another one, or towards itself by that name.

    None: another family than IPv4, an unknown name, or no way there; gloo then chooses by itself.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # sends nothing
        address = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                asked = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if asked[20:24] == address:
                    return name
    return None


def choose_interface() -> None:
    """Have gloo talk through the interface that leads to the first node, unless ``GLOO_SOCKET_IFNAME`` names one.

    Raises:
        ConfigError: that is the loopback interface, which no other host reaches.
    """
    master = os.environ["MASTER_ADDR"]
    if os.environ.get("GLOO_SOCKET_IFNAME") or (interface := interface_to(master)) is None:
        return
    if interface == "lo":
        raise ConfigError(
            f"--master-addr {master} leads this host to itself by a loopback address (see /etc/hosts), which no other "
            "host reaches; allowed: an address in the hosts' network, or the interface in GLOO_SOCKET_IFNAME"
        )
    os.environ["GLOO_SOCKET_IFNAME"] = interface


def watch_connections() -> int:
    """Have the kernel end this process's connections to hosts that are lost; the number of connections.

    The kernel of each side answers, so that a process that is merely busy is not lost. gloo and TCPStore
    have no setting for it: all TCP connections that the process has by now are set.
    """
    watched = 0
    for entry in os.listdir("/proc/self/fd"):
        number = int(entry)
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
        except OSError:  # the listing's own, closed by now
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            connection.getpeername()  # of one that listens: OSError
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_S // 4)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOST_S // 4)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
            # What was sent and not confirmed; keepalive looks only at silent connections.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000)
            watched += 1
    return watched
