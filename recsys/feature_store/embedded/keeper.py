"""The process that runs a private Redis for as long as anyone uses it: ``python keeper.py USERS RUNNING COMMAND...``.

Every user of the Redis holds a shared lock on the file USERS. The operating system gives such a lock
back when its holder ends, however it ends. So when the keeper gets that lock for itself nobody is left, and
it stops Redis. It holds the file RUNNING locked until Redis is gone, and ends with Redis's exit code.

Run as a file of its own, by path: it imports nothing of this package and starts in some 20 ms.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time

_KILL_AFTER_S = 10.0
_PR_SET_PDEATHSIG = 1


def main(users: str, running: str, *command: str) -> int:
    """Run the command until it ends or nobody holds ``users``; the exit code to end with."""
    if hasattr(os, "SCHED_BATCH"):  # a server that starts it again runs under another policy, and would bequeath it
        try:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except OSError:
            pass  # a container may forbid it
    with open(running, "a") as held, open(users, "a") as in_use:
        # Waits for a predecessor whose Redis is still syncing: two on one folder would spoil its data.
        fcntl.flock(held, fcntl.LOCK_EX)
        child = _start(command)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))

        def stop_when_unused() -> None:
            fcntl.flock(in_use, fcntl.LOCK_EX)
            os.kill(child, signal.SIGTERM)  # on which Redis syncs its data
            time.sleep(_KILL_AFTER_S)
            os.kill(child, signal.SIGKILL)

        threading.Thread(target=stop_when_unused, daemon=True).start()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)


def _start(command: tuple[str, ...]) -> int:
    libc, keeper = None, os.getpid()
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
    child = os.fork()
    if child:
        return child
    try:
        if libc is not None:
            # Were the keeper killed, nobody would stop Redis any more.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != keeper:
                os._exit(1)
        os.execv(command[0], command)
    finally:
        os._exit(127)


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)  # not by way of the thread that may still wait
