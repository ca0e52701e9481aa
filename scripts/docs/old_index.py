"""The table on new models and old indices of the page of results, made of the lines of ``benchmarks/old_index.py``."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results.md"
LINES = ROOT / "benchmarks" / "results" / "old_index.jsonl"
FROM, UNTIL = "<!-- generated from the lines of benchmarks/old_index.py -->\n", "<!-- end of these lines -->\n"
WAYS = {
    "new": "new users beside new items: a new index",
    "frozen": "users trained against the old items (`--freeze-items`)",
    "linear": "new users through the least-squares map of the items",
    "procrustes": "new users through Procrustes' rotation of the items",
    "basis": "new users through a rotation learnt by BPR, from Procrustes' on",
    "relative": "relative representations: cosines to 1,000 items",
    "raw": "new users beside old items, as they are",
}


def results_page() -> str:
    """The text of ``docs/results.md``: as it is, with the table that the recorded lines make."""
    lines = [json.loads(text) for text in LINES.read_text().splitlines()]
    found = {line["figure"].removeprefix("old_index."): line for line in lines}
    table = ["| way | recall@20 | NDCG@20 | recall@20 of users who came since |", "| --- | --- | --- | --- |"]
    for way, about in WAYS.items():
        values = (found[way]["value"], found[way]["ndcg"], found[way]["came_since"])
        table.append(f"| {about} | {' | '.join(f'{value:.4f}'.removeprefix('0') for value in values)} |")
    before, _, rest = RESULTS.read_text().partition(FROM)
    _, _, after = rest.partition(UNTIL)
    return "\n".join([f"{before}{FROM}", *table, "", f"{UNTIL}{after}"])
