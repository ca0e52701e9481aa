"""Several values of what was seen: the form that docs/guides/features.md shows, from a log to a trained model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.tiny_run import CONFIG
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.datasets import load_dataset
from recsys.data.samples.dataset import make_batch
from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import MISSING, string_key
from recsys.training.config import TableConfig
from recsys.training.loop import train

SECTION = (ROOT / "docs" / "guides" / "features.md").read_text().partition("### Several values of what was seen")[2]
DECLARED = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)[0]
TAGS = {7: ["jazz", "live"], 8: ["pop"], 9: ["live", "jazz", "vocal"]}


def test_the_documented_form_gives_each_event_the_tags_of_its_item_in_one_table(tmp_path: Path) -> None:
    (tmp_path / "tags.json").write_text(DECLARED)
    items = [
        {"item_id": item, "tags": tags, **{f"tag_{place}": tag for place, tag in enumerate(tags, start=1)}}
        for item, tags in TAGS.items()
    ]
    assert json.dumps(items[0]) in SECTION, "the row that the page shows"
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    first_ms, day_ms = 1_704_067_200_000, 86_400_000
    events = [
        {
            "user_id": user,
            "item_id": 7 + (user + n) % 3,
            "timestamp_ms": first_ms + n * day_ms,
            "taken": (user + n) % 2 + 1,
        }
        for user in range(8)
        for n in range(12)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    options = ["--items", str(tmp_path / "items.jsonl"), "--label", "taken==2"]
    options += ["--validation-from", "2024-01-09", "--test-from", "2024-01-11"]
    command = ["prepare", str(tmp_path / "log.jsonl"), "--features", str(tmp_path / "tags.json")]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output

    dataset = load_dataset(str(tmp_path / "out"), recent=5, work_dir=tmp_path).dataset
    assert dataset.table.features.tables()["tag"] == ("tags", "tag_1", "tag_2", "tag_3")
    batch = make_batch(dataset, dataset.split("test"))
    seen = batch.history["history.item_id"]
    for place in (1, 2, 3):
        expected = [string_key(tags[place - 1]) if len(tags := TAGS[int(item)]) >= place else MISSING for item in seen]
        assert np.asarray(batch.history[f"history.tag_{place}"]).tolist() == expected
    config = replace(CONFIG, tables=TableConfig(dim=4), train=replace(CONFIG.train, epochs=1, batch_size=32))
    result = train(config, dataset, tmp_path / "run")
    assert result.test is not None and np.isfinite(result.test.log_loss)


@pytest.mark.parametrize("attribute", [Categorical(name="tags", max_values=3), Categorical(name="tags")])
def test_a_multi_valued_attribute_is_refused_with_the_form_to_take(attribute: Categorical) -> None:
    with pytest.raises(InvalidInputError, match="Declare tags_1, tags_2 and so on, one value each and all with table"):
        FeatureSet(
            name="shop",
            user_id=Categorical(name="user_id"),
            item_id=Categorical(name="item_id"),
            item=(Categorical(name="tags", max_values=3),),
            history=History(attributes=(attribute,)),
        )
