"""The command: of a running server's score, or of a run's sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.explain.sample import explain_sample
from recsys.cli.explain.score import explain_score
from recsys.cli.options import (
    ADDRESS,
    WORK_DIR,
    CaOption,
    CertificateOption,
    DataOption,
    JsonOption,
    KeyOption,
    ServerNameOption,
    TlsOption,
    WorkOption,
    tls_of,
)
from recsys.cli.requests.shared import (
    AddressOption,
    FeatureOption,
    ModelOption,
    TextOption,
    TimeOption,
    feature_values,
    milliseconds,
    raw_id,
)
from recsys.errors import ConfigError


def explain(
    run_dir: Annotated[
        Path | None, typer.Argument(help="Folder of a run of AutoInt: explain one of its samples, without a server.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="User id; quotes make a text of digits: '\"007\"'.")
    ] = None,
    item: Annotated[str | None, typer.Option("--item", help="Id of the item whose score is explained.")] = None,
    feature: FeatureOption = None,
    time: TimeOption = None,
    max_events: Annotated[
        int, typer.Option("--max-events", help="Newest past events that are left out one by one, up to 200; 0 for 50.")
    ] = 0,
    shown: Annotated[int, typer.Option("--show", help="Events that are drawn, those that matter most.", min=0)] = 12,
    model: ModelOption = "",
    release: Annotated[
        str, typer.Option("--release", help="Release to explain. Default: the one that answers this user.")
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write the bars (of a run: heat maps, one per layer and head) to this PNG."),
    ] = None,
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 30.0,
    sample: Annotated[int, typer.Option("--sample", help="Of a run: number of the sample in its split, from 0.")] = 0,
    split: Annotated[
        str, typer.Option("--split", help="Of a run: part of the data: validation, test or train.")
    ] = "test",
    data: DataOption = None,
    work_dir: WorkOption = WORK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show why a user and an item get their score from a running server; see docs/guides/explain.md.

    Each feature's contribution and the base add up to the logit; below, what leaving out each past event would change.
    With a run's folder in place of --user and --item: AutoInt's attention weights between the features of one sample.
    """
    if (run_dir is None) == (user is None and item is None):
        raise ConfigError("give --user and --item, of a running server, or the folder of a run of AutoInt")
    if run_dir is not None:
        explain_sample(run_dir, sample=sample, split=split, plot=plot, data=data, work_dir=work_dir, as_json=as_json)
        return
    if user is None or item is None:
        raise ConfigError(f"--{'user' if user is None else 'item'} is missing: a score is of a user and an item")
    explain_score(
        address,
        tls=tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name),
        user=raw_id(user, text_ids),
        item=raw_id(item, text_ids),
        asked={
            "features": feature_values(feature or []),
            "time_ms": milliseconds(time),
            "max_events": max_events,
            "model": model,
            "release": release,
        },
        timeout_s=timeout_s,
        shown=shown,
        plot=plot,
        as_json=as_json,
    )
