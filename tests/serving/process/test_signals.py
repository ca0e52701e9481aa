"""Signals reach a server that waits, whenever they come."""

from __future__ import annotations

import subprocess
import sys

# A thousand signals, each about when the wait for it begins: some come when the interpreter has looked for signals
# for the last time before it waits.
WAITS = """
import random, signal
from queue import SimpleQueue
from recsys.serving.process.signals import wait_for_signal, forward_signals

queue = SimpleQueue()
with forward_signals(queue):
    signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGTERM))
    for _ in range(1_000):
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 20e-6))
        assert wait_for_signal(queue, poll_s=0.01) is signal.SIGALRM
print("handled")
"""


def test_a_signal_that_comes_right_before_the_wait_for_it_is_handled() -> None:
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n", "")
