"""A process whose clock is ahead of this machine's: the C library's answers for the time of day, shifted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>

static time_t ahead_s(void) { const char *given = getenv("CLOCK_AHEAD_S"); return given ? atol(given) : 0; }

int clock_gettime(clockid_t clock, struct timespec *answer) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, answer);
    if (clock == CLOCK_REALTIME) answer->tv_sec += ahead_s();
    return code;
}

int gettimeofday(struct timeval *answer, void *zone) {
    struct timespec now;
    int code = clock_gettime(CLOCK_REALTIME, &now);
    answer->tv_sec = now.tv_sec;
    answer->tv_usec = now.tv_nsec / 1000;
    return code;
}

time_t time(time_t *answer) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (answer) *answer = now.tv_sec;
    return now.tv_sec;
}
"""


def shifted_clock(folder: Path, seconds: int) -> dict[str, str] | None:
    """Environment of a process whose clock is so many seconds ahead; None: no C compiler here."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "shifted_clock.so"
    if not library.exists():
        command = [compiler, "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=_SOURCE, text=True, check=True, capture_output=True)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD_S": str(seconds)}
