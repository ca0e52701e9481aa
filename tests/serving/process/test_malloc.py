"""The C library keeps little of what was freed."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, threading
from recsys.serving.process.malloc import limit_arenas

if sys.argv[1] == "limited":
    limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
all_there = threading.Barrier(16)

def allocate():
    all_there.wait()
    libc.malloc(1000)
    all_there.wait()

threads = [threading.Thread(target=allocate) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc tells of its arenas, others do not")
@pytest.mark.parametrize(("how", "fits"), [("limited", True), ("as it is", False)])
def test_sixteen_threads_share_four_arenas(how: str, fits: bool, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, how, str(tmp_path / "arenas")], check=True, timeout=60)
    arenas = len(re.findall("<heap nr=", (tmp_path / "arenas").read_text()))
    assert 1 < arenas
    assert (arenas <= 4) == fits
