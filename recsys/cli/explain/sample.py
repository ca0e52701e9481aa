"""Attention weights between the features of one sample, by the AutoInt of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from recsys.cli.options import notes, output


def explain_sample(
    run_dir: Path, *, sample: int, split: str, plot: Path | None, data: Path | None, work_dir: Path, as_json: bool
) -> None:
    """Show AutoInt's attention weights between the features of one sample."""
    from recsys.data.datasets import load_dataset
    from recsys.plots import write_png
    from recsys.progress import progress
    from recsys.training.explain import explain as explain_trained
    from recsys.training.explain import heat_maps
    from recsys.training.trained import load_run

    with progress(notes, "reading the data"):
        trained = load_run(run_dir)
        settings = trained.config.data
        loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
        found = explain_trained(trained, loaded.dataset, split=split, sample=sample)
    if plot is not None:
        write_png(heat_maps(found), plot)
    if as_json:
        facts: dict[str, Any] = {"sentence": found.sentence(), "fields": found.fields, "values": found.values}
        facts |= {"score": found.score, "label": found.label}
        print(json.dumps({**facts, "maps": found.maps.round(6).tolist()}))
        return
    output.print(found.sentence(), highlight=False, markup=False)
    output.print(f"\n{split} sample {sample}: score {found.score:.4f}, label {found.label}", highlight=False)
    values = Table("feature", "value", box=None)
    for field, value in zip(found.fields, found.values, strict=True):
        values.add_row(field, escape(value))
    output.print(values)
    # A table per layer: all in one is too wide for a terminal.
    for layer in range(len(found.maps)):
        table = Table(f"layer {layer + 1}", "reads most", "weight", "then", "weight", box=None)
        for number, field in enumerate(found.fields):
            reads = found.most_read(layer, number, count=2)
            table.add_row(field, *(cell for name, weight in reads for cell in (name, f"{weight:.3f}")))
        output.print()
        output.print(table)
    output.print(f"\nWeights are means over heads; even ones would be {1 / len(found.fields):.3f}.", highlight=False)
