"""`train`, `evaluate` and `export` of models that rank all items."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.table import Table

from recsys.cli.options import notes, output, print_lines, print_notes, where_data_is

if TYPE_CHECKING:
    from recsys.bundle import Manifest
    from recsys.data.interactions.pairs import Interactions
    from recsys.evaluation.baselines import Baseline
    from recsys.training.retrieval.config import InteractionsConfig, RetrievalRunConfig
    from recsys.training.retrieval.ranking import RankingMetrics


def train_retrieval(
    config: RetrievalRunConfig,
    *,
    run_dir: Path | None,
    resume: bool,
    data: Path | None,
    work_dir: Path,
    overrides: list[str],
    as_json: bool,
) -> None:
    """Train, test, and leave checkpoint and metrics in the run's folder."""
    from recsys.progress import progress, training_progress
    from recsys.training.retrieval.run import train_any

    run_dir = run_dir or Path("runs") / config.recipe
    with progress(notes, "reading the data"):
        interactions = load(config.data, data, work_dir)
    notes.print(f"data: {interactions.source}", markup=False)
    with training_progress(notes) as report:
        result = train_any(
            config,
            interactions,
            run_dir,
            resume=resume,
            overrides=overrides,
            report=report,
            show_notes=lambda said: print_notes(notes, said),
        )
    figures = {"validation": result.validation, "test": result.test}
    beside = result.baselines
    if as_json:
        facts: dict[str, Any] = {"run_dir": str(run_dir), **_values(figures, beside), "notes": list(result.notes)}
        if result.best_epoch is not None:
            facts["best_epoch"] = result.best_epoch
        print(json.dumps({**facts, "epochs": result.epochs, "samples_per_s": round(result.pairs_per_s)}))
        return
    _print(figures, config, beside)
    if result.best_epoch is not None:
        output.print(f"weights: the best by validation recall, those of epoch {result.best_epoch:,}")
    following = f"\nNext: recsys export {run_dir} --out {run_dir}/bundle{where_data_is(data, work_dir)}"
    output.print(following, soft_wrap=True, highlight=False, markup=False)


def evaluate_retrieval(
    run_dir: Path, *, split: str, by_segment: bool, data: Path | None, work_dir: Path, as_json: bool
) -> None:
    """Metrics of a run's model on a part of its data."""
    from recsys.progress import progress
    from recsys.training.retrieval.evaluate import compare_with_baselines, details_of_run
    from recsys.training.retrieval.folder import read_retrieval_config

    config = read_retrieval_config(run_dir)
    with progress(notes, "reading the data"):
        interactions = load(config.data, data, work_dir)
    if split == "validation" and not len(interactions.validation):
        if as_json:
            print("{}")
        else:
            notes.print("the validation split is empty: there is nothing to measure")
        return
    with progress(notes, "ranking all items for each user"):
        metrics, baselines = compare_with_baselines(run_dir, interactions, split)
        details = details_of_run(run_dir, interactions, split) if by_segment else None
    if as_json:
        values = _values({split: metrics}, {split: baselines})
        if details is not None:
            values[split] |= dataclasses.asdict(details)
        print(json.dumps(values))
        return
    _print({split: metrics}, config, {split: baselines})
    if details is not None:
        table = Table("segment", "users", "to find", "recall", "NDCG", box=None)
        for each in details.segments:
            ndcg = "" if each.ndcg is None else f"{each.ndcg:.4f}"
            table.add_row(each.name, f"{each.users:,}", f"{each.pairs:,}", f"{each.recall:.4f}", ndcg)
        output.print()
        output.print(table)
        output.print(f"novelty: {details.novelty:.2f} bits an item of a list", highlight=False)


def evaluate_pair(
    run_dir: Path, then: Path, *, candidates: int, users: int, data: Path | None, work_dir: Path, as_json: bool
) -> None:
    """Metrics of a retrieval run's candidates in the order of a ranking run's model."""
    from recsys.data.datasets import load_dataset
    from recsys.progress import progress
    from recsys.training.retrieval.end_to_end import evaluate_end_to_end
    from recsys.training.retrieval.folder import read_retrieval_config
    from recsys.training.retrieval.ranking import metric_values
    from recsys.training.trained import load_run

    config = read_retrieval_config(run_dir)
    with progress(notes, "reading the data") as work:
        interactions = load(config.data, data, work_dir)
        trained = load_run(then)
        settings = trained.config.data
        dataset = load_dataset(settings.dataset, recent=settings.recent, work_dir=work_dir, path=data).dataset
        work.stage("finding candidates, ranking them")
        found = evaluate_end_to_end(run_dir, interactions, trained, dataset, candidates=candidates, users=users)
    if as_json:
        lists = {"retrieval": metric_values(found.retrieval), "both": metric_values(found.both)}
        print(json.dumps({**dataclasses.asdict(found), **lists}))
        return
    k = config.train.list_length
    table = Table("test split", f"recall@{k}", f"NDCG@{k}", f"hit rate@{k}", "coverage", "users", box=None)
    for name, m in ((str(run_dir), found.retrieval), (f"then {then}", found.both)):
        shares = (f"{value:.4f}" for value in (m.recall, m.ndcg, m.hit_rate, m.coverage))
        table.add_row(name, *shares, f"{m.users:,}")
    output.print(table)
    output.print(
        f"{found.verdict}\n"
        f"recall of all {found.candidates:,} candidates: {found.candidate_recall:.4f}, the most an order can reach"
        + (f"\n{found.left_out:,} items of {run_dir} are not in the log: no candidates here" if found.left_out else ""),
        highlight=False,
        soft_wrap=True,
    )


def export_retrieval(
    run_dir: Path,
    out: Path,
    *,
    name: str | None,
    segment: str | None,
    segment_half_life_days: float | None,
    coarse: str,
    neighbours: int,
    audience: bool,
    coarse_recall: float | None,
    overwrite: bool,
    data: Path | None,
    work_dir: Path,
    as_json: bool,
) -> None:
    """Write a run's model as a bundle that retrieves."""
    from recsys.export.retrieval.bundle import export_retrieval_bundle
    from recsys.export.retrieval.codes import Coarse
    from recsys.export.retrieval.index import MeasuredIndex
    from recsys.export.retrieval.rerank import LEAST_RECALL
    from recsys.export.retrieval.segments import HALF_LIFE_D, segments_of
    from recsys.export.retrieval.shared_users.add import SharedUsers
    from recsys.progress import progress
    from recsys.recipes import model_name
    from recsys.training.retrieval.folder import read_retrieval_config

    config, shared_users = read_retrieval_config(run_dir), SharedUsers(neighbours=neighbours, audience=audience)
    with progress(notes, "reading the data") as work:
        interactions = load(config.data, data, work_dir)
        work.stage("writing the tables, comparing lists")
        declared = "" if interactions.ids is None else interactions.ids.features.name
        name = name or model_name(config, declared)
        half_life_days = HALF_LIFE_D if segment_half_life_days is None else segment_half_life_days
        by_segment = None if segment is None else segments_of(interactions, segment, half_life_days)
        measured: list[MeasuredIndex] = []
        manifest = export_retrieval_bundle(
            run_dir,
            interactions,
            out,
            name=name,
            segments=by_segment,
            shared_users=shared_users,
            coarse=cast(Coarse, coarse),
            least_recall=LEAST_RECALL if coarse_recall is None else coarse_recall,
            measured_index=measured.append,
            overwrite=overwrite,
        )
    (index,) = measured
    certificate = manifest.certificate
    sizes = {table: manifest.files[t.file][0] for table, t in manifest.tables.items()}
    if as_json:
        facts: dict[str, Any] = {"bundle": str(out), "model": manifest.model, "version": manifest.version}
        facts |= {"index_fingerprint": manifest.index_fingerprint, "size_bytes": sizes}
        facts |= {"metrics": dict(manifest.metrics), "baselines": manifest.baselines}
        facts["index"] = {**dataclasses.asdict(index.info), "ms": index.ms, "exhaustive_ms": index.exhaustive_ms}
        facts["item_inputs"] = list(manifest.item_inputs)
        facts |= {"segments": None if by_segment is None else by_segment.note}
        facts |= {"shared_users": manifest.training.get("shared_users", {})}
        print(json.dumps({**facts, "parity": dataclasses.asdict(certificate)}))
        return
    shown = Table("table", "rows", "KB", box=None)
    for table, size_bytes in sizes.items():
        shown.add_row(table, f"{manifest.tables[table].shape[0]:,}", f"{size_bytes / 1000:,.1f}")
    output.print(shown)
    print_manifest_metrics(manifest)
    print_lines(_verdict(run_dir))
    output.print(
        f"{out}: model {manifest.model}, version {manifest.version}, index {manifest.index_fingerprint}\n"
        f"certificate: largest score difference {certificate.max_abs_logit_difference:.1e} on "
        f"{certificate.candidates:,} items of {certificate.requests:,} lists "
        f"(allowed {certificate.tolerance:.0e}; {certificate.compared})\n"
        f"{index}\n"
        f"items that come after training: {_added(manifest)}\n"
        f"users who are not known: {'what is popular with all' if by_segment is None else by_segment.note}\n"
        + "".join(f"{note}\n" for note in manifest.training.get("shared_users", {}).values())
        + f"\nNext: recsys serve RANKING_BUNDLE --retrieval {out}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _added(manifest: Manifest) -> str:
    if manifest.item_inputs:
        return f"found by {', '.join(manifest.item_inputs)}"
    if manifest.knows_users_by == "id":
        return "not found; `recsys train linear` finds them, where items have features"
    return "not found, for the model reads no feature of items"


def print_manifest_metrics(manifest: Manifest) -> None:
    """The metrics of a bundle's model on the test split, beside popularity and chance."""
    from recsys.evaluation.report import LABELS

    if not manifest.metrics:
        return
    table = Table("test split", "model", *manifest.baselines, box=None)
    for name, label in LABELS.items():
        values = [of.get(name) for of in (manifest.metrics, *manifest.baselines.values())]
        if values[0] is not None:
            table.add_row(label, *("none" if value is None else f"{value:.4f}" for value in values))
    output.print(table)


def _verdict(run_dir: Path) -> list[str]:
    """Verdict of the values that the run keeps of its test users."""
    from recsys.errors import DataFileError
    from recsys.evaluation.baselines import baselines_of_stored_lists
    from recsys.evaluation.predictions import read_user_values
    from recsys.evaluation.report import verdict_lines

    try:
        return verdict_lines(baselines_of_stored_lists(read_user_values(run_dir, "test")))
    except DataFileError as error:
        return [f"not known if better than popularity and chance: {error}"]


def load(config: InteractionsConfig, data: Path | None, work_dir: Path) -> Interactions:
    """A run's interactions, in their parts."""
    from recsys.data.interactions.datasets import load_interaction_set

    return load_interaction_set(config.dataset, config, work_dir=work_dir, path=data)


def _values(figures: Mapping[str, RankingMetrics | None], beside: Mapping[str, tuple[Baseline, ...]]) -> dict[str, Any]:
    from recsys.evaluation.baselines import baselines_json
    from recsys.training.retrieval.ranking import metric_values

    values: dict[str, Any] = {split: metric_values(m) for split, m in figures.items() if m is not None}
    return {**values, "baselines": {split: baselines_json(found) for split, found in beside.items()}}


def _print(
    figures: Mapping[str, RankingMetrics | None],
    config: RetrievalRunConfig,
    beside: Mapping[str, tuple[Baseline, ...]],
) -> None:
    from recsys.evaluation.report import verdict_lines
    from recsys.models.registry import CLOSED_FORMS
    from recsys.training.retrieval.ranking import metric_values

    k, closed = config.train.list_length, config.model.kind in CLOSED_FORMS

    shown = {split: metric_values(m) for split, m in figures.items() if m is not None}
    names = {"recall": f"recall@{k}", "ndcg": f"NDCG@{k}", "hit_rate": f"hit rate@{k}", "coverage": "coverage"}
    of_lists = {"hit_rate_at_10": "HR@10", "ndcg_at_10": "NDCG@10"}
    listed = {int(values["candidates"]) for values in shown.values() if "candidates" in values}
    names |= of_lists if listed else {}
    table = Table("split", *names.values(), "users", box=None)
    for split, values in shown.items():
        table.add_row(split, *_cells(values, names), f"{int(values['users']):,}")
        for each in beside.get(split, ()):
            table.add_row(f"  {each.name}", *_cells(each.values, names))
    output.print(table)
    if listed:
        output.print(
            f"HR@10 and NDCG@10 rank an item among {max(listed) - 1} sampled ones, all else among all items",
            soft_wrap=True,
            highlight=False,
        )
    for split, baselines in beside.items():
        print_lines(f"{split}: {line}" for line in verdict_lines(baselines))
    without = [split for split, baselines in beside.items() if "linear" not in {each.name for each in baselines}]
    if without and not closed:
        output.print(
            f"the baseline linear is left out of {' and '.join(without)}: it would take long beside the rest "
            "(docs/guides/evaluation.md)",
            soft_wrap=True,
            highlight=False,
        )


def _cells(values: Mapping[str, float | None], names: Iterable[str]) -> list[str]:
    return ["" if (value := values.get(name)) is None else f"{value:.4f}" for name in names]
