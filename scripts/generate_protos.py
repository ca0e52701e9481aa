"""Generate ``recsys/proto`` and Envoy's descriptor set from ``protos/``: ``python scripts/generate_protos.py [OUT]``.

The files are committed, so that installing needs no compiler; ``tests/serving/rpc/test_protos.py``
fails when they no longer match their sources.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "recsys" / "proto"
PACKAGE = "recsys.proto"
DESCRIPTORS = ROOT / "deploy" / "k8s" / "components" / "json" / "recsys.pb"
"""Descriptors by which Envoy makes gRPC of JSON: every message, call and path (``google.api.http``)."""


def generate(out: Path) -> None:
    """Write the generated modules, flat, into ``out``; other ``*_pb2*`` files in it are removed.

    Raises:
        RuntimeError: the compiler refused a proto file (it says why on stderr).
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        compile_protos(outputs)
        out.mkdir(parents=True, exist_ok=True)
        for stale in out.glob("*_pb2*.py*"):
            stale.unlink()
        for file in sorted(Path(folder).rglob("*_pb2*")):
            # Generated code is not annotated the way strict mypy asks for.
            (out / file.name).write_text("# mypy: ignore-errors\n" + _localize(file.read_text()))


def describe(file: Path) -> None:
    """Write the descriptor set of all proto files and of what they import, without comments.

    Raises:
        RuntimeError: as :func:`generate`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    compile_protos(["--include_imports", f"--descriptor_set_out={file}"])


def compile_protos(options: list[str]) -> None:
    """Run the compiler on all proto files.

    Raises:
        RuntimeError: it refused one; it says why on stderr.
    """
    sources = sorted(p.relative_to(PROTOS).as_posix() for p in PROTOS.rglob("*.proto"))
    # google/api/annotations.proto is in googleapis-common-protos.
    folders = [PROTOS, resources.files("grpc_tools") / "_proto", resources.files("google.api") / ".." / ".."]
    if protoc.main(["protoc", *(f"-I{folder}" for folder in folders), *options, *sources]) != 0:
        raise RuntimeError("protoc failed")


def _localize(source: str) -> str:
    """Import sibling modules from our package: protoc assumes that proto folders are Python packages."""
    return re.sub(r"^from recsys\.v1 import", f"from {PACKAGE} import", source, flags=re.MULTILINE)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
    if len(sys.argv) == 1:
        describe(DESCRIPTORS)
