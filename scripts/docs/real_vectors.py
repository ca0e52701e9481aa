"""The tables beside other indexes of the page on retrieval, made of the lines of ``benchmarks/real_vectors.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RETRIEVAL = ROOT / "docs" / "understand" / "retrieval.md"
LINES = ROOT / "benchmarks" / "results" / "real_vectors.jsonl"
FROM, UNTIL = "<!-- generated from the lines of benchmarks/real_vectors.py -->\n", "<!-- end of these lines -->\n"
FIGURE = "index.recall_vs_hnsw_at_filters."
VECTORS = {
    "lightgcn_gowalla": "LightGCN on Gowalla",
    "two_tower_beauty": "`two_tower` on Beauty",
}
FILTERS = {"all": "all", "10pct": "10 %", "1pct": "1 %", "category": "a category of 2 %"}
PEERS = {
    "ours": "ours",
    "faiss_flat": "faiss, flat",
    "faiss_ivf": "faiss, IVF",
    "faiss_hnsw": "faiss, HNSW",
    "hnswlib": "hnswlib, HNSW",
}


def retrieval_page() -> str:
    """The text of ``docs/understand/retrieval.md``: as it is, with the tables that the recorded lines make."""
    before, _, rest = RETRIEVAL.read_text().partition(FROM)
    _, _, after = rest.partition(UNTIL)
    recorded = [json.loads(text) for text in LINES.read_text().splitlines()] if LINES.exists() else []
    return "\n".join([f"{before}{FROM}", *tables(recorded), f"{UNTIL}{after}"])


def tables(lines: list[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of a table for each model's vectors; a word where nothing is recorded."""
    if not lines:
        yield "Nothing is recorded yet.\n"
        return
    by_figure = {line["figure"]: line for line in lines}
    for vectors, about in VECTORS.items():
        rows = {name: by_figure[f"{FIGURE}{vectors}.{name}"] for name in FILTERS}
        sizes, dimension = rows["all"]["on"]["sizes"], rows["all"]["effective_dimension"]
        yield (
            f"{about}: {sizes['items']:,} items of {sizes['dim']} columns, effective dimension {dimension}. Recall of "
            "the best 100 (in brackets that with the effort that recall .95 takes without a filter) and median "
            "milliseconds:\n"
        )
        yield f"| index | {' | '.join(FILTERS.values())} |"
        yield f"| --- |{' --- |' * len(FILTERS)}"
        for peer, name in PEERS.items():
            if peer == "ours" or peer in rows["all"]["peers"]:
                yield f"| {name} | {' | '.join(_cell(peer, row) for row in rows.values())} |"
        yield ""


def _cell(peer: str, row: Mapping[str, Any]) -> str:
    if peer == "ours":
        return f"{row['value']:.3f}, {row['ms']:.2f} ms"
    of = row["peers"][peer]
    as_of_all = of["recall_with_the_effort_of_all"]
    bracket = f" ({as_of_all:.3f})" if round(as_of_all, 3) != round(of["recall"], 3) else ""
    # hnswlib asks a function in Python of each item.
    ms = "" if peer == "hnswlib" and not row["figure"].endswith(".all") else f", {of['ms']:.2f} ms"
    return f"{of['recall']:.3f}{bracket}{ms}"
