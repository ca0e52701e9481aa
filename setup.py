"""Builds of the package: what pyproject.toml cannot say of a library that only ONNX Runtime loads.

The compiled operators are tied to a processor and a C library, and to no Python: their file has no CPython in its name,
and a wheel of them fits every Python 3. Its tag says the oldest glibc that has all they ask for, as read from the file.
Without a compiler, or with ``RECSYS_OPERATORS_CXX=none``, the wheel holds no operators and fits any machine.

``RECSYS_OPERATORS_CXX`` is the compiler to use, in place of ``c++``, with any options: ``scripts/build_wheel.py`` puts
one there that compiles for another processor.
"""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

MACHINES = {62: "x86_64", 183: "aarch64"}
"""Processors by ELF's number, under their names in tags of wheels."""


class BuildOperators(build_ext):
    """Compile the operators, with the compiler that was asked for, to a file of a name that no Python is in."""

    def get_ext_filename(self, fullname: str) -> str:
        """The path of the library of a module's name."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile one library, by one command that knows nothing of this Python: its flags are for its own processor.

        Raises:
            CompileError: there is no compiler, it fails, or none is wanted; ``optional`` makes it a warning.
        """
        out = Path(self.get_ext_fullpath(ext.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [*_compiler(), *ext.extra_compile_args, "-fPIC", "-shared", *ext.sources, "-o", str(out)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"the operators were not compiled: {error}") from error


def _compiler() -> list[str]:
    """The C++ compiler and its first options.

    Raises:
        CompileError: there is none.
    """
    if named := os.environ.get("RECSYS_OPERATORS_CXX"):
        found: list[str] = shlex.split(named) if named != "none" else []
    else:
        found = [name for name in ("c++", "g++", "clang++") if shutil.which(name)][:1]
    if not found:
        raise CompileError("no C++ compiler, or none wanted: bundles are served by their standard operators, slower")
    return found


class OperatorsWheel(bdist_wheel):
    """A wheel whose tag says what its library needs: a processor and a C library, and of Python only that it is one."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tags of Python, ABI and platform."""
        libraries = list(Path(self.bdist_dir).rglob("_library.so"))
        if not libraries:  # not compiled
            self.root_is_pure = True
            return "py3", "none", "any"
        return "py3", "none", platform_tag(libraries[0].read_bytes()) or super().get_tag()[2]


def platform_tag(library: bytes) -> str | None:
    """The tag of the platforms on which a shared library runs: of the oldest glibc that has all it asks for.

    None where it is no ELF file of 64 bits, of a processor in ``MACHINES``, that asks for a glibc.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        return None
    (machine,) = struct.unpack_from("<H", library, 18)
    versions = [name.removeprefix("GLIBC_") for name in _asked_for(library) if name.startswith("GLIBC_")]
    if machine not in MACHINES or not versions:
        return None
    major, minor = max(tuple(int(part) for part in version.split(".")[:2]) for version in versions)
    return f"manylinux_{major}_{minor}_{MACHINES[machine]}"


def _asked_for(library: bytes) -> list[str]:
    """The versions of other libraries' symbols that an ELF file asks for: its section of type ``SHT_GNU_verneed``."""
    (at,) = struct.unpack_from("<Q", library, 40)
    size, count = struct.unpack_from("<HH", library, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", library, at + size * number) for number in range(count)]
    found = []
    for _, kind, _, _, need, _, link, _, _, _ in sections:
        while kind == 0x6FFFFFFE:
            _, versions, _, first, next_need = struct.unpack_from("<HHIII", library, need)
            version = need + first
            for _ in range(versions):
                _, _, _, name, next_version = struct.unpack_from("<IHHII", library, version)
                text = sections[link][4] + name
                found.append(library[text : library.index(b"\0", text)].decode())
                version += next_version
            if not next_need:
                break
            need += next_need
    return found


if __name__ == "__main__":
    setup(cmdclass={"build_ext": BuildOperators, "bdist_wheel": OperatorsWheel})
