"""The wheel and the source distribution: what they hold, what their names promise, and that they run."""

from __future__ import annotations

import json
import os
import platform
import re
import runpy
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import onnxruntime
import pytest
from support.paths import ROOT

from recsys.operators import library

PLATFORM_TAG = runpy.run_path(str(ROOT / "setup.py"))["platform_tag"]
BUILD = ROOT / "scripts" / "build_wheel.py"

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system's C library is not glibc")


def build(out: Path, *arguments: str) -> Path:
    """The wheel that the script makes; it prints the paths of both files."""
    environment = {k: v for k, v in os.environ.items() if k != "RECSYS_OPERATORS_CXX"}
    made = subprocess.run(
        [sys.executable, BUILD, "--out", out, *arguments],
        env={**environment, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    sdist, wheel = map(Path, made.stdout.split())
    assert sdist.name.endswith(".tar.gz") and sdist.parent == wheel.parent == out
    return wheel


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without operators."""
    return build(tmp_path_factory.mktemp("plain"), "--target", "none")


def test_the_wheel_holds_every_file_of_the_package_but_its_sources_in_another_language(plain: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "recsys"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name for name in listed.stdout.split() if not name.endswith((".cpp", ".h"))}
    assert len(files) > 500
    with zipfile.ZipFile(plain) as packed:
        held = set(packed.namelist())
    assert {name for name in held if ".dist-info/" not in name} == files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_a_wheel_without_operators_fits_any_machine(plain: Path) -> None:
    assert re.fullmatch(r"recsys-[\w.]+-py3-none-any\.whl", plain.name)
    assert tags_of(plain) == (["true"], ["py3-none-any"])


def test_the_source_distribution_holds_what_the_package_and_the_images_are_built_of(plain: Path) -> None:
    (sdist,) = plain.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "recsys",
            "protos",
            "requirements",
            "deploy",
            "scripts",
            "pyproject.toml",
            "setup.py",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(listed.stdout.split()) - held == set()
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


def test_another_processor_without_zig_says_what_to_install(tmp_path: Path) -> None:
    hidden = f"import runpy, sys; sys.modules['ziglang'] = None; sys.argv[0] = {str(BUILD)!r}; "
    made = subprocess.run(
        [sys.executable, "-c", hidden + "runpy.run_path(sys.argv[0], run_name='__main__')"]
        + ["--out", tmp_path, "--target", "aarch64-linux-gnu.2.28"],
        capture_output=True,
        text=True,
    )
    assert (made.returncode, made.stderr) == (1, "error: --target needs zig: pip install ziglang\n")


@needs_glibc
def test_a_library_has_the_tag_that_its_own_makers_gave_it() -> None:
    """Of ONNX Runtime's wheel, which auditwheel tagged by the same rule."""
    said = (distribution("onnxruntime").read_text("WHEEL") or "").splitlines()
    (tag,) = [line.rpartition("-")[2] for line in said if line.startswith("Tag: ")]
    folder = Path(onnxruntime.__file__).parent / "capi"
    tags = {PLATFORM_TAG(file.read_bytes()) for file in folder.glob("*.so*")}
    assert max(tags, key=oldest_glibc) == tag


@needs_glibc
@pytest.mark.skipif(library() is None, reason="the operators were not compiled")
def test_the_operators_of_this_machine_need_no_newer_glibc_than_its_own() -> None:
    file = library()
    assert file is not None
    tag = PLATFORM_TAG(file.read_bytes())
    assert tag.endswith(platform.machine())
    assert oldest_glibc(tag) <= tuple(map(int, platform.libc_ver()[1].split(".")))


def test_what_is_no_library_of_glibc_has_no_tag() -> None:
    assert PLATFORM_TAG(b"") is None
    assert PLATFORM_TAG(b"\xcf\xfa\xed\xfe" + bytes(100)) is None  # macOS
    assert PLATFORM_TAG(b"\x7fELF\x02\x01" + bytes(100)) is None


@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_a_wheel_runs_the_demo_in_a_clean_environment_and_is_the_same_bytes_again(tmp_path: Path) -> None:
    wheel = build(tmp_path / "one")
    assert wheel.read_bytes() == build(tmp_path / "two").read_bytes()
    if library() is not None and platform.libc_ver()[0] == "glibc":
        assert re.search(rf"-py3-none-manylinux_2_\d+_{platform.machine()}\.whl$", wheel.name)
        assert tags_of(wheel)[0] == ["false"]
    clean = tmp_path / "clean"
    venv.create(clean)
    python = clean / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "REDIS_URL", "PYTHONPATH"))}
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, env=environment, check=True)
    (packages,) = clean.glob("lib/python*/site-packages")
    # Other packages are those of this run: files that it has of recsys itself come after the wheel's.
    (packages / "others.pth").write_text(str(Path(onnxruntime.__file__).parents[1]) + "\n")

    def say(*command: str | Path) -> str:
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    where = say(python, "-c", "import recsys.operators as o; print(o.__file__, o.library())").split()
    assert where[0].startswith(str(packages))
    assert where[1] == str(packages / "recsys" / "operators" / "_library.so") or library() is None
    figures = json.loads(say(clean / "bin" / "recsys", "demo", "--synthetic", "--json", "train.epochs=1"))
    assert figures


@pytest.mark.prove
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("processor", "number"), [("aarch64", 183), ("x86_64", 62)])
def test_zig_compiles_the_operators_for_another_processor(tmp_path: Path, processor: str, number: int) -> None:
    pytest.importorskip("ziglang", reason="no zig: pip install ziglang")
    wheel = build(tmp_path, "--target", f"{processor}-linux-gnu.2.28")
    assert oldest_glibc(wheel.stem.rpartition("-")[2]) <= (2, 28)
    assert wheel.stem.endswith(processor)
    with zipfile.ZipFile(wheel) as packed:
        assert int.from_bytes(packed.read("recsys/operators/_library.so")[18:20], "little") == number


def tags_of(wheel: Path) -> tuple[list[str], list[str]]:
    """``Root-Is-Purelib`` and the tags in the wheel itself."""
    with zipfile.ZipFile(wheel) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/WHEEL")]
        lines = [line.split(": ") for line in packed.read(name).decode().splitlines() if line]
    return [v for k, v in lines if k == "Root-Is-Purelib"], [v for k, v in lines if k == "Tag"]


def oldest_glibc(tag: str) -> tuple[int, ...]:
    """(2, 28) of ``manylinux_2_28_x86_64``."""
    found = re.match(r"manylinux_(\d+)_(\d+)_", tag)
    assert found, tag
    return tuple(map(int, found.groups()))
