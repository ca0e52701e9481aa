"""A cable that delays: a proxy between two TAP devices that hands on each Ethernet frame after a fixed time.

The kernel of a small machine may have no netem. This takes its place, in a process of its own::

    python -m support.slow_cable OUTER INNER DELAY_S    # says "ready" once both devices are there

Both devices go when it ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TAP, _NO_HEADER = 0x0002, 0x1000
_LARGEST = 65_536
_BURST = 64
"""Most frames that are read from one side in a row."""


def open_tap(name: str) -> int:
    """Make a TAP device; the file that its frames are read from and written to."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    return file


def forward(first: int, second: int, delay_s: float) -> None:
    """Hand on frames in both directions, for ever."""
    other = {first: second, second: first}
    waiting: deque[tuple[float, int, bytes]] = deque()  # by time, for all wait equally long
    while True:
        left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for side in select.select([first, second], [], [], left_s)[0]:
            for _ in range(_BURST):
                try:
                    frame = os.read(side, _LARGEST)
                except BlockingIOError:
                    break
                waiting.append((time.monotonic() + delay_s, other[side], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, side, frame = waiting.popleft()
            try:
                os.write(side, frame)
            except OSError:  # a device that is down, or a full queue: lost, as on a cable
                continue


if __name__ == "__main__":
    ends = [open_tap(name) for name in sys.argv[1:3]]
    print("ready", flush=True)
    forward(ends[0], ends[1], float(sys.argv[3]))
