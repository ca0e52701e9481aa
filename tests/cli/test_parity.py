"""The whole proof from the command line: raw log, `prepare`, `parity`, and a server's request log."""

from __future__ import annotations

import json
import random
from pathlib import Path

from support.command_line import recsys

FEATURES = {
    "name": "shop",
    "user_id": {"name": "user", "id_type": "string"},
    "item_id": {"name": "item"},
    "item": [{"name": "brand"}],
    "context": [{"name": "page"}],
    "history": {"attributes": [{"name": "brand"}, {"name": "action", "storage": "u8"}], "recent": 5, "max_age_s": 500},
}
T0_MS = 1_700_000_000_000


def write_log(folder: Path) -> Path:
    """Late, repeated and out-of-order events; the brand is the item's."""
    draw = random.Random(7)
    events = []
    for _ in range(400):
        time_ms = T0_MS + 1000 * draw.randrange(1000)
        late_ms = draw.choice([0, 0, 0, 2_000, 300_000])
        event = {"user": f"u{draw.randrange(6)}", "item": draw.randrange(20), "timestamp_ms": time_ms}
        events.append({**event, "arrival_ms": time_ms + late_ms, "action": draw.randrange(3), "page": 1})
        events[-1]["label"] = time_ms // 1000 % 2
    repeated = [{**event, "arrival_ms": event["arrival_ms"] + 5_000} for event in draw.sample(events, 50)]
    log = [*events, *repeated]
    draw.shuffle(log)
    (folder / "features.json").write_text(json.dumps(FEATURES))
    (folder / "items.jsonl").write_text("".join(json.dumps({"item": i, "brand": i % 4}) + "\n" for i in range(20)))
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in log))
    return path


def test_a_prepared_log_equals_its_replay_and_another_log_does_not(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    made = recsys(
        "prepare", "log.jsonl", "--features", "features.json", "--items", "items.jsonl", "--out", "own", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    for arguments in ((), ("--log", "log.jsonl")):
        done = recsys("parity", "./own", *arguments, "--json", cwd=tmp_path)
        facts = json.loads(done.stdout)
        assert done.returncode == 0 and facts["equal"] and 350 <= facts["samples"] <= 400, done.stderr

    lines = log.read_text().splitlines()
    (tmp_path / "short.jsonl").write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    done = recsys("parity", "./own", "--log", "short.jsonl", cwd=tmp_path)
    assert done.returncode == 8
    assert "different" in done.stdout and "history.item" in done.stdout and " online, " in done.stdout


def test_without_anything_to_compare_the_reason_is_told(tmp_path: Path) -> None:
    write_log(tmp_path)
    unlabelled = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({k: v for k, v in e.items() if k != "label"}) + "\n" for e in unlabelled)
    (tmp_path / "log.jsonl").write_text(text)
    recsys("prepare", "log.jsonl", "--features", "features.json", "--out", "own", "--no-samples", cwd=tmp_path)
    assert "there are no samples to compare" in recsys("parity", "./own", cwd=tmp_path).stderr
    (tmp_path / "none").mkdir()
    assert "no *.parquet here" in recsys("parity", "./own", "--requests", "none", cwd=tmp_path).stderr
