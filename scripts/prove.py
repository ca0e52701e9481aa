"""Run the tests that prove more and take longer, and note the result in ``docs/contribute/prove.md``."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "contribute" / "prove.md"
BEGIN, END = "<!-- last result -->\n", "<!-- end -->\n"


def main() -> int:
    """Run them with pytest's arguments from the command line; return pytest's exit code."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-m", "prove", "--durations=15", *sys.argv[1:]]
    printed: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    note(next((line.strip("= \n") for line in reversed(printed) if re.search(r"\d+ \w+ in ", line)), "no summary"))
    print(f"{time.monotonic() - began_s:.0f} s; noted in {PAGE.relative_to(ROOT)}")
    return process.returncode


def note(summary: str) -> None:
    """Put the result in place of the last one."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no repository"
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, {platform.system()}"
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{day}, commit {commit}, {machine}: {summary}\n{END}{after}")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
