"""`recsys release rollback`, `split` and `shadow`: changes of ``served.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from recsys.cli.options import JsonOption, print_lines, show_warnings
from recsys.cli.releases.shared import (
    STORE,
    StoreOption,
    WaitOption,
    WhyOption,
    in_spite_of,
    open_running,
    served_values,
    servers_after,
)
from recsys.errors import ConfigError, ReleaseError
from recsys.releases.changes import rolled_back, with_shadow, with_split
from recsys.releases.following import shares_text
from recsys.releases.release import open_release
from recsys.releases.served import Served, ServedModel, read_served
from recsys.releases.store import change_served, find_release

NONE = "none"
ModelArgument = Annotated[str, typer.Argument(help="Name that requests ask for.", metavar="MODEL")]
SharesArgument = Annotated[
    list[str],
    typer.Argument(
        help="RELEASE=PERCENT, several times if you like; a release is its name or its beginning; 0 takes it out; "
        "`none` alone takes all out.",
        metavar="RELEASE=PERCENT...",
    ),
]


def rollback(
    model: Annotated[
        str | None, typer.Argument(help="Name that requests ask for. Default: the default model.", metavar="MODEL")
    ] = None,
    from_release: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Release to get away from, or its beginning: nothing is done if another one is live, so that two "
            "people who roll back at once do not undo each other.",
            metavar="RELEASE",
        ),
    ] = None,
    store: StoreOption = STORE,
    why: WhyOption = "",
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Make the release live that was live before; the live one becomes the previous.

    Servers keep the previous release loaded for a while (RECSYS_RELEASE_KEEP_S), and go back within a second then.
    """
    before = read_served(store)
    name = model or ("" if before is None else before.default)
    if before is not None and from_release is not None and name in before.models:
        if not (live := before.models[name].live).startswith(from_release):
            raise ReleaseError(f"{live} is live as {name}, not {from_release}: nothing was changed")
    after = change_served(
        store, lambda served: rolled_back(served, name), expected=before, why=why or f"rollback of {name}"
    )
    now = after.models[name]
    _finish(store, before, after, wait, as_json, f"{now.live} is live as {name}; {now.previous} is the previous")


def split(
    model: ModelArgument,
    shares: SharesArgument,
    anyway: Annotated[
        str, typer.Option("--anyway", help="Split in spite of what speaks against it, for this reason.", metavar="WHY")
    ] = "",
    store: StoreOption = STORE,
    why: WhyOption = "",
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Have other releases answer shares of the users beside the live one; a user stays with one release.

    Releases that are not named keep their share. The rest of the users is the live release's. A release that comes into
    the split must be fit to be promoted, but for its hashes, which servers look at: `recsys release promote --help`.
    """
    before, anyway = read_served(store), anyway.strip()
    wanted = _wanted(store, shares, {} if (now := _model(before, model)) is None else now.split)
    overridden: list[str] = []
    if now is not None:
        new = [name for name, share in wanted.items() if share and name not in now.split]
        overridden = _guard(store, before, model, new, anyway)
    text = (why or f"split of {model}: {shares_text(wanted)}") + (f"; anyway: {anyway}" if anyway else "")
    if overridden:
        text = in_spite_of(text, overridden)
    after = change_served(store, lambda served: with_split(served, model, wanted), expected=before, why=text)
    now = after.models[model]
    rest = 100 - sum(now.split.values())
    _finish(store, before, after, wait, as_json, f"split of {model}: {shares_text(now.split)}; {now.live} {rest:g} %")


def shadow(
    model: ModelArgument,
    shares: SharesArgument,
    store: StoreOption = STORE,
    why: WhyOption = "",
    wait: WaitOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Have other releases score shares of the requests, too; their scores are compared, and never returned.

    Releases that are not named keep their share. `recsys release compare` shows the differences.
    """
    before = read_served(store)
    wanted = _wanted(store, shares, {} if (now := _model(before, model)) is None else now.shadow)
    text = f"shadow of {model}: {shares_text(wanted)}"
    after = change_served(store, lambda served: with_shadow(served, model, wanted), expected=before, why=why or text)
    _finish(store, before, after, wait, as_json, f"shadow of {model}: {shares_text(after.models[model].shadow)}")


def _model(served: Served | None, name: str) -> ServedModel | None:
    return None if served is None else served.models.get(name)


def _wanted(store: Path, shares: Sequence[str], before: Mapping[str, float]) -> dict[str, float]:
    """The shares that arguments ask for, by whole names.

    Raises:
        ConfigError: an argument is malformed.
        ReleaseError: there is no such release.
    """
    if list(shares) == [NONE]:
        return {}
    wanted: dict[str, float] = {}
    for text in shares:
        release, equals, percent = text.rpartition("=")
        try:
            number = float(percent.removesuffix("%"))
        except ValueError:
            number = -1.0
        if not equals or not release or not 0 <= number <= 100:
            raise ConfigError(f"{text!r}: allowed: RELEASE=PERCENT, 0 to 100, or {NONE!r} alone")
        # One to take out may have been deleted from the store meanwhile
        fitting = [name for name in before if name.startswith(release)] if number == 0 else []
        name = fitting[0] if len(fitting) == 1 else find_release(store, release).release.name
        if name in wanted:
            raise ConfigError(f"{text!r}: {name} is named twice")
        wanted[name] = number
    return wanted


def _guard(store: Path, served: Served | None, model: str, names: Sequence[str], anyway: str) -> list[str]:
    """Refuse releases that may not answer anybody, or warn if they are to do it anyway; raises ReleaseError.

    Returns:
        What is overridden.
    """
    overridden: list[str] = []
    if not names:
        return overridden
    from recsys.releases.comparison import Bounds
    from recsys.releases.guards import inspect, states_problem

    running, unread = open_running(store, served, model)
    for name in names:
        candidate = open_release(store, name)
        found = inspect(candidate, running, Bounds(), verify="sizes")
        if found.damage:
            raise ReleaseError(f"{name} is damaged: {'; '.join(found.damage)}; nothing was changed")
        reasons = [*unread, *found.refusals]
        if reasons and not anyway:
            raise ReleaseError(
                f"{name} may not answer anybody: {'; '.join(reasons)}; nothing was changed; --anyway WHY splits in "
                "spite of it; `recsys release shadow` compares it without answering"
            )
        cold = states_problem(candidate, running)
        overridden += [f"{name}: {reason}" for reason in reasons]
        show_warnings(f"{name}: {text}" for text in (*reasons, *found.notes, *([cold] if cold else [])))
    return overridden


def _finish(store: Path, before: Served | None, after: Served, wait_s: float, as_json: bool, says: str) -> None:
    """Print what is served now, and wait for the servers."""
    if not as_json:
        print_lines([says if after != before else f"{says}: as before, nothing was changed"])
    found, servers, problem = servers_after(store, after, wait_s, as_json=as_json)
    if as_json:
        print(json.dumps({"store": str(store), "changed": after != before, **served_values(after), **servers}))
        if problem is not None:
            raise problem
    elif wait_s:
        print_lines([f"served by {', '.join(each.server for each in found if each.seen.fresh)}"])
