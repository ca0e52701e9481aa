"""The command that shows what an AutoInt model paid attention to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from recsys.cli.options import WORK_DIR, DataOption, JsonOption, WorkOption, output


def explain(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run of AutoInt.")],
    sample: Annotated[int, typer.Option("--sample", help="Number of the sample in its split, from 0.")] = 0,
    split: Annotated[str, typer.Option("--split", help="validation, test or train.")] = "test",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write heat maps, one per layer and head, to this PNG.")
    ] = None,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show which features the model related to which, for one sample: AutoInt's attention weights."""
    from recsys.data.datasets import load_dataset
    from recsys.plots import write_png
    from recsys.training.explain import explain as explain_sample
    from recsys.training.explain import heat_maps
    from recsys.training.trained import load_run

    trained = load_run(run_dir)
    settings = trained.config.data
    loaded = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data)
    found = explain_sample(trained, loaded.dataset, split=split, sample=sample)
    if plot is not None:
        write_png(heat_maps(found), plot)
    if as_json:
        facts = {"fields": found.fields, "values": found.values, "score": found.score, "label": found.label}
        print(json.dumps({**facts, "maps": found.maps.round(6).tolist()}))
        return
    output.print(f"{split} sample {sample}: score {found.score:.4f}, label {found.label}", highlight=False)
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
