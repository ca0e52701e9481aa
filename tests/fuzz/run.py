"""Coverage-guided fuzzing of the targets, with atheris: ``python tests/fuzz/run.py [--seconds 60] [TARGET...]``.

Each target begins from its corpus and its examples, runs in a process of its own, and ends at the first input that
raises what is no error of ``recsys.errors``, takes more than a second, or more than 2 GiB of memory; that input is
printed and kept as ``crash-*`` in the folder that is named. Inputs that reach new code are then added to the corpus, if
they are small. Exit code 1: a target failed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CORPUS = TESTS / "fuzz" / "corpus"
LARGEST_BYTES = 16_384
MOST_FILES = 40
"""Of a target's corpus."""

SLOWEST_S = 1.0
"""Most CPU time of one input."""

_LIMITS = ["-timeout=20", "-rss_limit_mb=2048", f"-max_len={LARGEST_BYTES}", "-print_final_stats=1", "-verbosity=1"]


def main() -> None:
    """Run all targets, or those named; or, in a child, one of them under libFuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        fuzz(given.child[0], given.child[1:])
        return
    sys.path.insert(0, str(TESTS))
    from fuzz.targets import TARGETS

    failed = [name for name in given.targets or TARGETS if not run(name, given.seconds)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def fuzz(name: str, options: list[str]) -> None:
    """Hand a target to libFuzzer, which ends the process."""
    import atheris

    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=["recsys", "fuzz"]):
        from fuzz.targets import TARGETS

    def timed(data: bytes) -> None:
        """Run the target; its own time counts, as the machine may be busy."""
        started_s = time.process_time()
        TARGETS[name](data)
        if (took_s := time.process_time() - started_s) > SLOWEST_S:
            raise TimeoutError(f"took {took_s:.1f} s")

    atheris.Setup([sys.argv[0], *options], timed)
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Fuzz one target for some seconds, then add what it found to the corpus; False if it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    found, own = folder / "found", CORPUS / name
    for path in (found, own):
        path.mkdir(parents=True, exist_ok=True)
    seed(name, own)
    limits = [*_LIMITS, f"-artifact_prefix={folder}/"]
    ended = _child(name, [str(found), str(own), f"-max_total_time={seconds}", *limits])
    summary = [line for line in ended.stderr.splitlines() if "number_of_executed_units" in line or "DONE" in line]
    print(f"{name}: {' '.join(summary)}", flush=True)
    if ended.returncode:
        print("\n".join([*ended.stdout.splitlines()[-20:], *ended.stderr.splitlines()[-20:]]), flush=True)
        print(f"{name}: failed with {ended.returncode}; inputs are in {folder}", flush=True)
        return False
    keep(found, own)
    return True


def seed(name: str, folder: Path) -> None:
    """Write a target's examples."""
    from fuzz.examples import examples

    for data in examples()[name]:
        (folder / f"{hashlib.sha1(data).hexdigest()[:16]}.bin").write_bytes(data)


def keep(found: Path, own: Path) -> None:
    """Add inputs to a corpus while it has room: the smaller first, as libFuzzer has made them as small as it could."""
    for path in sorted(found.iterdir(), key=lambda path: path.stat().st_size):
        if len(list(own.iterdir())) < MOST_FILES:
            (own / f"{path.stem[:16]}.bin").write_bytes(path.read_bytes())


def _child(name: str, options: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, "--child", name, *options]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


if __name__ == "__main__":
    main()
