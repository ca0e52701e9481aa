"""Build the source distribution, and from it, and nothing else, the wheel.

    python scripts/build_wheel.py --out dist
    python scripts/build_wheel.py --out dist --target aarch64-linux-gnu.2.28

The first uses the machine's C++ compiler; ``--target`` is one of zig's (`pip install ziglang`), which compiles for any
processor and any glibc from 2.17 on. ``--target none``: no operators, for any machine. Prints both paths.

Files in a wheel carry the time ``SOURCE_DATE_EPOCH``; unset, that of the commit: its bytes are the same each time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_FIRST_OF_ZIP = "315532800"
_HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(out: Path, target: str | None = None, *, source: Path = ROOT) -> tuple[Path, Path]:
    """Build both into ``out``; returns the source distribution and the wheel.

    Raises:
        subprocess.CalledProcessError: a build failed; its output is in the error's ``stderr``.
        ValueError: there is no zig for a ``target``; or the operators did not compile, although a compiler was named.
    """
    environment = dict(os.environ)
    environment["SOURCE_DATE_EPOCH"] = environment.get("SOURCE_DATE_EPOCH") or commit_time(source)
    if target is not None:
        environment["RECSYS_OPERATORS_CXX"] = "none" if target == "none" else _zig(target)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recsys-wheel-") as folder:
        sdist = out / _call("build_sdist", source, out, environment)
        with tarfile.open(sdist) as packed:
            # Python 3.11.2, Debian's, knows no filters yet.
            packed.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (unpacked,) = Path(folder).iterdir()
        wheel = out / _call("build_wheel", unpacked, out, environment)
    if target not in (None, "none") and wheel.name.endswith("-any.whl"):
        raise ValueError(f"{wheel.name}: the operators did not compile for {target}; the compiler's words are above")
    return sdist, wheel


def commit_time(source: Path = ROOT) -> str:
    """Seconds since 1970 at the commit that is checked out; 1980, the first a zip can say, where there is no git."""
    try:
        said = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=source, capture_output=True, text=True)
    except OSError:  # git is not installed
        return _FIRST_OF_ZIP
    return said.stdout.strip() or _FIRST_OF_ZIP


def _zig(target: str) -> str:
    try:
        import ziglang
    except ImportError:
        raise ValueError("--target needs zig: pip install ziglang") from None
    return f"{sys.executable} -m {ziglang.__name__} c++ -target {target}"


def _call(hook: str, source: Path, out: Path, environment: dict[str, str]) -> str:
    """The name of the file that a hook of setuptools' made."""
    said = subprocess.run(
        [sys.executable, "-c", _HOOK, hook, str(out)], cwd=source, env=environment, stdout=subprocess.PIPE, text=True
    )
    said.check_returncode()
    return said.stdout.splitlines()[-1]


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of both files; default: dist/")
    options.add_argument("--target", help="zig's name of a processor, system and glibc; or none")
    given = options.parse_args()
    try:
        print(*build(given.out, given.target), sep="\n")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
