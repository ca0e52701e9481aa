"""`recsys release list`, `show` and `status`: looking at a store; nothing is changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from recsys.cli.options import JsonOption, notes, print_lines, show_warnings
from recsys.cli.releases.shared import (
    STORE,
    ReleaseArgument,
    StoreOption,
    WaitOption,
    changed_text,
    follower_values,
    print_models,
    print_table,
    release_line,
    served_values,
    size_text,
    uses,
    wait_for_servers,
)
from recsys.errors import ReleaseError
from recsys.progress import progress
from recsys.releases.following import Follower, followers
from recsys.releases.release import ReleaseFolder, find_releases
from recsys.releases.served import read_served
from recsys.releases.status import read_statuses
from recsys.releases.store import find_release
from recsys.releases.verify import altered_files, shared_bytes

DIFFERS = 3
"""Exit code if a server does not do what served.json says, or a release is altered."""


def list_(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """List the releases of a store, the newest first, and what each is used for."""
    found, damaged = find_releases(store)
    used = uses(read_served(store))
    show_warnings(damaged)
    if as_json:
        releases = [
            {**dataclasses.asdict(each.release), "used": used.get(each.release.name, [])} for each in reversed(found)
        ]
        print(json.dumps({"store": str(store), "releases": releases, "damaged": damaged}))
        return
    if not found:
        print_lines([f"{store}: no releases; `recsys release push BUNDLE` pushes one"])
        return
    table = Table("number", "release", "size", "pushed", "by", "used", "note", box=None, pad_edge=False)
    for each in reversed(found):
        release = each.release
        size = size_text(sum(part.size_bytes for part in (release.ranking, release.retrieval) if part is not None))
        use = ", ".join(used.get(release.name, [])) or "-"
        table.add_row(
            str(release.number),
            release.name,
            size,
            escape(release.at),
            escape(release.by),
            escape(use),
            escape(release.note),
        )
    print_table(table)


def show(
    release: ReleaseArgument,
    store: StoreOption = STORE,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every file (about 1 GB/s), instead of looking at sizes only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a release: bundles, sizes, metrics, certificate, its origin, its use, and if it is as it was pushed.

    Exits with 3 if a file was altered or is missing; pushing its bundles again repairs it.
    """
    folder = find_release(store, release)
    total_bytes = sum(part.size_bytes for part in (folder.release.ranking, folder.release.retrieval) if part)
    done_bytes = 0
    with progress(notes, "hashing, MB") as work:

        def count(size_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += size_bytes
            work.count(done_bytes // 1_000_000, -(-total_bytes // 1_000_000))

        altered = altered_files(folder, verify="full" if verify else "sizes", count=count)
    shared = shared_bytes(folder)
    used = uses(read_served(store)).get(folder.release.name, [])
    if as_json:
        looked = {"verified": "full" if verify else "sizes", "altered": altered, "shared_bytes": shared, "used": used}
        print(json.dumps({"store": str(store), **dataclasses.asdict(folder.release), **looked}))
    else:
        _print_release(folder, shared=shared, used=used)
        if altered:
            print_lines([*altered, "altered: push its bundles again to repair it"])
        else:
            print_lines(["verified: every hash is right" if verify else "sizes are right; --verify hashes the files"])
    if altered:
        raise typer.Exit(DIFFERS)


def status(store: StoreOption = STORE, wait: WaitOption = 0.0, as_json: JsonOption = False) -> None:
    """Show what served.json says beside what each server says that it serves, differences first.

    Exits with 3 if a server does not do what the file says: it refused, went back, is behind, or its status is old.
    """
    try:
        served = read_served(store)
    except ReleaseError:
        if store.is_dir() and not as_json:  # what servers go on with is what somebody has to know now
            print_lines(
                f"{seen.status.server}: {seen.status.phase}, serves {model.live} as {name} ({seen.age_s:,.0f} s ago)"
                for seen in read_statuses(store)[0]
                for name, model in seen.status.models.items()
            )
        raise
    if wait:
        if served is None:
            raise ReleaseError(f"{store}: nothing is served yet; `recsys release promote` makes a release live")
        wait_for_servers(store, served, wait)
    statuses, unread = read_statuses(store)
    found = followers(served, statuses)
    if as_json:
        servers = [follower_values(each) for each in found]
        print(json.dumps({"store": str(store), "served": served_values(served), "servers": servers, "unread": unread}))
    else:
        if served is None:
            print_lines(["nothing is served yet; `recsys release promote` makes a release live"])
        else:
            print_lines([changed_text(served)])
            print_models(served)
        _print_servers(found)
        show_warnings([*unread, *(f"{each.server}: {text}" for each in found for text in each.seen.status.warnings)])
    if unread or any(each.differences for each in found):
        raise typer.Exit(DIFFERS)


def _print_servers(found: Sequence[Follower]) -> None:
    if not found:
        print_lines(["no server has written a status here"])
        return
    table = Table("server", "revision", "phase", "loaded", "status", "as served", box=None, pad_edge=False)
    for each in found:
        status = each.seen.status
        said = f"last seen {each.seen.age_s:,.0f} s ago"
        if each.seen.ended or each.seen.late:
            said += ", ended" if each.seen.ended else ", late"
        same = "no" if each.differences else "yes"
        table.add_row(
            escape(each.server), str(status.revision), escape(status.phase or "-"), str(len(status.loaded)), said, same
        )
    print_table(table)
    print_lines(
        f"{each.server}: {each.seen.status.phase}: {each.seen.status.progress}"
        for each in found
        if each.seen.status.progress
    )
    print_lines(f"{each.server}: {text}" for each in found for text in each.differences)


def _print_release(folder: ReleaseFolder, *, shared: int, used: Sequence[str]) -> None:
    release = folder.release
    lines = [f"{release.name}: {release_line(folder)}", f"folder: {folder.path}"]
    for part, bundle in (("ranking", release.ranking), ("retrieval", release.retrieval)):
        if bundle is not None:
            size = size_text(bundle.size_bytes)
            lines.append(f"{part}: model {bundle.model}, version {bundle.version}, {size}")
    lines.append(f"shared with other releases: {size_text(shared)}")
    lines.append(f"FeatureSet: {release.feature_set} ({release.feature_set_fingerprint})")
    lines.append(f"metrics: {_numbers(release.metrics)}")
    lines.append(f"certificate: {_certificate(release.certificate)}")
    lines.append(f"used: {', '.join(used) or 'not'}")
    if release.note:
        lines.append(f"note: {release.note}")
    print_lines(lines)


def _numbers(metrics: Mapping[str, float | None]) -> str:
    """Those that were measured; whole numbers are counts.

    >>> _numbers({"auc": 0.81164, "mrr": None, "samples": 5176})
    'auc 0.8116, samples 5,176'
    """
    shown = {name: format(v, ",d" if isinstance(v, int) else ".4f") for name, v in metrics.items() if v is not None}
    return ", ".join(f"{name} {value}" for name, value in shown.items()) or "none"


def _certificate(values: Mapping[str, object]) -> str:
    if not values:
        return "none"
    difference = values.get("max_abs_logit_difference")
    shown = f"{difference:.2g}" if isinstance(difference, float) else difference
    return (
        f"largest difference of a logit {shown} of {values.get('tolerance')} allowed, "
        f"{values.get('requests')} requests, {values.get('compared')}"
    )
