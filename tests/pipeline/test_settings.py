"""The TOML file of a pipeline: every key is checked, and the example has them all."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.paths import DOCS
from support.tiny_pipeline import with_setting, write_shop

from recsys.errors import ConfigError
from recsys.pipeline.example import EXAMPLE, write_example
from recsys.pipeline.settings import PipelineSettings, read_settings


def keys(settings: Any = None, prefix: str = "") -> dict[str, Any]:
    """Every key of the file, and its default."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings or PipelineSettings()):
        value = getattr(settings or PipelineSettings(), field.name)
        if dataclasses.is_dataclass(value):
            found |= keys(value, f"{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def uncommented() -> str:
    """The example with every key that it has, and without their comments."""
    lines = [re.sub(r"^# (?=[a-z_]+ = |\[[a-z]+\])", "", line) for line in EXAMPLE.splitlines()]
    return "\n".join(line for line in lines if not line.startswith("# "))


def test_the_example_has_every_key_with_its_default() -> None:
    values = tomllib.loads(uncommented())
    found = {
        f"{section}.{key}": value for section, of in values.items() if isinstance(of, dict) for key, value in of.items()
    }
    found |= {key: value for key, value in values.items() if not isinstance(value, dict)}
    assert set(found) == set(keys())
    chosen = {
        "name", "data.log", "data.features", "data.users", "data.items", "data.entities", "data.labels", "data.label",
        "training.overrides", "export.quantize",
    }  # fmt: skip
    for key, default in keys().items():
        if key not in chosen:
            assert found[key] == (list(default) if isinstance(default, tuple) else default), key


def test_the_example_is_read_as_it_is_written(tmp_path: Path) -> None:
    write_example(tmp_path / "shop.toml")
    read = read_settings(tmp_path / "shop.toml")
    assert (read.name, read.training.recipe, read.data.log) == ("shop", "din", (str(tmp_path / "logs/*.jsonl"),))
    with pytest.raises(ConfigError, match="exists; choose another name"):
        write_example(tmp_path / "shop.toml")


def test_the_page_has_every_key() -> None:
    page = (DOCS / "guides" / "pipeline.md").read_text()
    rows = {
        name for row in re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    assert set(keys()) - rows == set()


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("data", 'lgo = ["x"]', r"unknown setting 'data.lgo': did you mean 'log'\?"),
        ("trainign", "mode = 1", r"unknown setting 'trainign': did you mean 'training'\?"),
        ("training", 'mode = "partial"', r"training.mode is 'partial': .*valid: full, incremental"),
        ("training", "replay = 3", "training.replay is 3; expected str"),
        ("training", 'full_every = "weekly"', "training.full_every is 'weekly'; allowed: a number and s, m, h, d or w"),
        ("training", 'incremental = ["train.epoch=1"]', r"unknown setting 'train.epoch': did you mean 'train.epochs'"),
        ("training", 'incremental = ["data.since=1d"]', "data.since is set by the pipeline; training.window and"),
        ("training", 'incremental = ["train.patience=2"]', "train.patience and the schedule plateau look at a"),
        ("data", 'holdout = "0h"', "data.holdout is '0h'; allowed: above 0"),
        ("data", 'label = "rating>"', "label 'rating>': expected COLUMN OPERATOR VALUE"),
        ("data", "negatives = -1", "data.negatives is -1; allowed: 0 or more"),
        ("gate", 'margins = ["aoc=1%"]', r"metric 'aoc': did you mean 'auc'\?"),
        ("gate", "most_rows_ratio = nan", "gate.most_rows_ratio is nan; allowed: 0 or more"),
        ("states", "ttl_s = 1", "states.ttl_s is 1; allowed: 60 or more"),
        ("data", "features = 2026-01-01", "Cannot overwrite a value"),
    ],
)
def test_a_key_that_is_wrong_is_named_with_what_is_allowed(
    section: str, line: str, message: str, tmp_path: Path
) -> None:
    file = write_shop(tmp_path / "shop")
    text = file.read_text().replace('margins = ["60%", "calibration_error=0.9"]\n', "")
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        with_setting(file, section, line)
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "shop"', 'name = ""', "name is missing, and has no default"),
        ('log = ["logs/*.csv"]', "log = []", "data.log is missing"),
        ('name = "shop"', 'name = "shop"\nzone = "Mars"', "zone is 'Mars'; allowed: a time zone such as"),
        ('name = "shop"', 'name = "shop"\nkeep_days = 0', "keep_days is 0; allowed: 1 or more"),
        ('recipe = "dcn"', 'recipe = "dcm"', r"unknown recipe 'dcm': did you mean 'dcn'\?"),
        ('recipe = "dcn"', "recipe = dcn", "not TOML: "),
    ],
)
def test_a_file_that_lacks_or_misspells_what_it_must_have_is_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    file = write_shop(tmp_path / "shop")
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_settings(file)
