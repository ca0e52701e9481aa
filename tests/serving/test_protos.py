"""The committed protobuf code is what the proto files say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_matches_its_sources(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "generate_protos.py"))
    script["generate"](tmp_path)
    committed = {p.name: p.read_text() for p in script["OUT"].glob("*.py*")}
    assert {p.name: p.read_text() for p in tmp_path.glob("*.py*")} == committed


def test_every_call_field_and_value_is_explained() -> None:
    for file in (ROOT / "protos").rglob("*.proto"):
        lines = [line.strip() for line in file.read_text().splitlines()]
        for before, line in zip(lines, lines[1:], strict=False):
            if re.match(r"(service|enum|rpc) |.* = \d+;$", line):
                assert before.startswith("//"), f"{file.name}: {line!r} has no comment"
