"""A server's threads do not push each other off the core, and what can wait has it last."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.serving.scheduling import short_turns, use_batch_scheduling, use_idle_scheduling


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system knows no batch scheduling")
def test_threads_that_are_started_later_are_batch_threads_too() -> None:
    def outer() -> tuple[int, int]:
        use_batch_scheduling()
        with ThreadPoolExecutor(1) as inner:
            return os.sched_getscheduler(0), inner.submit(os.sched_getscheduler, 0).result()

    before = os.sched_getscheduler(0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outer).result() == (os.SCHED_BATCH, os.SCHED_BATCH)
    assert os.sched_getscheduler(0) == before, "not those of other threads"


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system knows no batch scheduling")
def test_a_system_that_forbids_it_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    use_batch_scheduling()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system knows no idle scheduling")
def test_a_process_that_was_just_started_is_idle_with_all_its_threads() -> None:
    program = "import os, threading; input(); threading.Thread(target=lambda: print(os.sched_getscheduler(0))).start()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        use_idle_scheduling(process.pid)
        output, _ = process.communicate(b"\n")
    assert int(output) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) != os.SCHED_IDLE, "not this process"


def test_turns_are_short_until_the_last_block_that_asked_for_it_ends() -> None:
    before_s = sys.getswitchinterval()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with short_turns():
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with short_turns():
        thread.start()
        assert entered.wait(20)
        assert sys.getswitchinterval() < before_s
    assert sys.getswitchinterval() < before_s, "the other thread is in such a block"
    leave.set()
    thread.join()
    assert sys.getswitchinterval() == before_s
