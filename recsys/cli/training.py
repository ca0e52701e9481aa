"""`train` a recipe, `torchrun` over several hosts; `recipes` lists them, `demo` runs the whole way with one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.cli.features import numbers_table
from recsys.cli.options import (
    WORK_DIR,
    DataOption,
    JsonOption,
    OverridesArgument,
    WorkOption,
    notes,
    output,
    print_lines,
    print_notes,
    show_warnings,
    where_data_is,
)
from recsys.errors import ConfigError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""Of a command whose arguments are another program's."""


def demo(
    overrides: OverridesArgument = None,
    data: DataOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the run, the bundle and the store.")] = Path(
        "runs/demo"
    ),
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Use the built-in synthetic log; takes seconds.")
    ] = False,
    download: Annotated[bool, typer.Option(help="Allow the download of MovieLens-1M.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Run everything once on real data: two models on MovieLens-1M, export, serve, recommend. About 2 minutes."""
    from recsys.demo import run_demo

    figures = run_demo(
        folder,
        overrides=overrides or [],
        data=data,
        synthetic=synthetic,
        allow_download=download,
        console=notes,
        out=notes if as_json else output,
    )
    if as_json:
        print(json.dumps(figures))


def recipes(as_json: JsonOption = False) -> None:
    """List the recipes that `train` knows."""
    from recsys.recipes import GROUPS, RECIPES, RETRIEVAL_RECIPES

    makers = {**RECIPES, **RETRIEVAL_RECIPES}
    about = {name: (makers[name].__doc__ or "").strip() for names in GROUPS.values() for name in names}
    if as_json:
        print(json.dumps(about))
        return
    for heading, names in GROUPS.items():
        output.print(f"[bold]{heading[0].upper()}{heading[1:]}[/bold]", highlight=False, soft_wrap=True)
        table = Table(box=None, show_header=False)
        for name in names:
            table.add_row(name, about[name])
        output.print(table)


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `recsys recipes` lists them.")],
    overrides: OverridesArgument = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder of the run. Default: runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the run's last checkpoint.")] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option("--warm-start", help="Begin with the rows and layers of an older run's folder, or of a bundle."),
    ] = None,
    freeze_items: Annotated[
        Path | None,
        typer.Option(
            "--freeze-items",
            help="Of mf, lightgcn, ngcf: keep the items of a retrieval bundle, or of a run's folder with one in it, "
            "and train users against them: the index stays.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Train only on samples from then on: a time (2001-02-03T04:05:06Z), or a duration before the newest "
            "(36h, 1d). With --warm-start the older run's ids keep their rows.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves to the folder tensorboard of the run.")
    ] = False,
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print where each table would go, and stop.")] = False,
    processes: Annotated[int, typer.Option("--processes", help="With --plan: number of processes, on all hosts.")] = 1,
    hosts: Annotated[
        int, typer.Option("--hosts", help="With --plan: number of hosts, with equally many processes.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe, evaluate it, and leave checkpoint and metrics in the run's folder."""
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.recipes import recipe as find_recipe
    from recsys.training.settings import override, to_json

    changes = list(overrides or [])
    if warm_start is not None:
        changes.append(f"train.warm_start={json.dumps(str(warm_start))}")
    if freeze_items is not None:
        changes.append(f"train.freeze_items={json.dumps(str(freeze_items))}")
    if since is not None:
        changes.append(f"data.since={json.dumps(since)}")
    if recipe in RETRIEVAL_RECIPES:
        if given := [option for option, value in {"--tensorboard": tensorboard, "--plan": plan}.items() if value]:
            raise ConfigError(f"{given[0]} is for ranking models; {recipe} ranks all items")
        _train_retrieval(recipe, changes, run_dir, resume, data, work_dir, show, as_json)
        return
    if freeze_items is not None:
        raise ConfigError(f"--freeze-items is for models that rank all items; {recipe} ranks given ones")
    if tensorboard:
        changes.append("train.tensorboard=true")
    config = override(find_recipe(recipe), changes)
    if show:
        print(to_json(config))
        return
    from recsys.data.datasets import load_dataset
    from recsys.embeddings.sharding.shard import start_process_group
    from recsys.evaluation.baselines import baselines_json
    from recsys.evaluation.report import metrics_json, verdict_lines
    from recsys.progress import progress, training_progress
    from recsys.training.distributed.processes import first_before_others, is_first
    from recsys.training.loop import train as run_training
    from recsys.training.reports import plan_table
    from recsys.training.trained import default_device, plan_run

    device = default_device()
    start_process_group(device)
    run_dir = run_dir or Path("runs") / config.recipe
    console = notes if is_first() else Console(quiet=True)
    # The first process prepares the data, if it must; the others find it prepared.
    with progress(console, "reading the data"):
        loaded = first_before_others(
            lambda: load_dataset(config.data.dataset, recent=config.data.recent, work_dir=work_dir, path=data)
        )
    console.print(f"data: {loaded.raw.source}", markup=False)
    show_warnings(loaded.dataset.samples.warnings, console)
    if plan:
        planned = plan_run(config, loaded.dataset, device=device.type, processes=processes, hosts=hosts)
        if as_json:
            print(json.dumps([dataclasses.asdict(part) for part in planned]))
        else:
            output.print(plan_table(planned))
        return
    with training_progress(console) as report:
        result = run_training(
            config,
            loaded.dataset,
            run_dir,
            resume=resume,
            overrides=changes,
            report=report,
            show_plan=lambda planned: console.print(plan_table(planned)),
            show_start=lambda taken: console.print(str(taken), markup=False, highlight=False),
            show_numbers=lambda transforms: console.print(numbers_table(transforms)),
            show_notes=lambda said: print_notes(console, said),
        )
    if not is_first():
        return
    measured = {"test": result.test, "validation": result.validation}
    figures = {split: metrics_json(metrics) for split, metrics in measured.items() if metrics is not None}
    beside = {split: baselines_json(found) for split, found in result.baselines.items()}
    if as_json:
        facts: dict[str, Any] = {"run_dir": str(run_dir), **figures, "baselines": beside, "notes": list(result.notes)}
        if result.samples_per_s > 0:  # 0: resumed after the last step
            facts["samples_per_s"] = round(result.samples_per_s)
        print(json.dumps(facts if result.best_step is None else {**facts, "best_step": result.best_step}))
        return
    _print_metrics(figures, beside)
    for split, baselines in result.baselines.items():
        if split == "test" or len(result.baselines) == 1:
            print_lines(f"{split}: {line}" for line in verdict_lines(baselines))
    if result.best_step is not None:
        output.print(f"weights: the best by {config.train.monitor}, those after step {result.best_step:,}")
    following = f"\nNext: recsys export {run_dir} --out {run_dir}/bundle{where_data_is(data, work_dir)}"
    output.print(following, soft_wrap=True, highlight=False, markup=False)


def torchrun(context: typer.Context) -> int:
    """Start this host's processes of a training run over several hosts; takes torchrun's arguments.

    On each host, with its own number: **recsys torchrun --nnodes=2 --node-rank=0 --master-addr=HOST
    --master-port=29400 -m recsys.cli train din data.dataset=./shop --resume**

    Unlike torchrun, it says in a line which host did not come, after 300 s (--rdzv-conf=timeout=N), and ends
    with the exit code of the process that failed. With --max-restarts=N all hosts begin again when one was lost.
    """
    from recsys.training.distributed.launch import launch, restarts_of, start_again

    restarts, arguments = restarts_of(context.args)
    if restarts < 0:
        raise ConfigError(f"--max-restarts is {restarts}; allowed: 0 or more")
    ended = launch(arguments)
    if ended.code == 0:
        return 0
    if ended.again and restarts:
        notes.print(escape(f"{ended.why}; beginning again, {restarts} restarts left"), soft_wrap=True, highlight=False)
        start_again(arguments, restarts=restarts)
    notes.print("[red]error:[/red] " + escape(ended.why), soft_wrap=True, highlight=False)
    return ended.code


def _train_retrieval(
    recipe: str,
    overrides: list[str],
    run_dir: Path | None,
    resume: bool,
    data: Path | None,
    work_dir: Path,
    show: bool,
    as_json: bool,
) -> None:
    from recsys.cli.retrieval_runs import train_retrieval
    from recsys.recipes import RETRIEVAL_RECIPES
    from recsys.training.settings import override, to_json

    config = override(RETRIEVAL_RECIPES[recipe](), overrides)
    if show:
        print(to_json(config))
        return
    train_retrieval(
        config,
        run_dir=run_dir,
        resume=resume,
        data=data,
        work_dir=work_dir,
        overrides=overrides,
        as_json=as_json,
    )


def _print_metrics(figures: dict[str, dict[str, Any]], beside: dict[str, dict[str, Any]]) -> None:
    has_lists = any(m["long_lists"] for m in figures.values())
    of_lists = {"HR@10": "hit_rate_at_10", "NDCG@10": "ndcg_at_10"} if has_lists else {}
    shown = {"AUC": "auc", "GAUC": "gauc", "log loss": "log_loss", **of_lists}
    table = Table("split", *shown, "samples", "positives", box=None)
    for split, m in figures.items():
        values = ("none" if m[name] is None else f"{m[name]:.4f}" for name in shown.values())
        table.add_row(split, *values, f"{m['samples']:,}", f"{m['positives']:,}")
        for name, own in beside[split].items():
            values = ("none" if own[metric] is None else f"{own[metric]:.4f}" for metric in shown.values())
            table.add_row(f"  {name}", *values)
    output.print(table)
