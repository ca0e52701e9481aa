"""Changes of ``served.json``: pure functions from one content to the next. ``store.change_served`` writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from recsys.errors import NotFoundError, ReleaseError, nearest
from recsys.releases.served import Served, ServedModel

Side = Literal["split", "shadow"]


def promoted(served: Served | None, model: str, release: str) -> Served:
    """Make a release live; the one that was live is kept as previous, for :func:`rolled_back`.

    Splits and shadows stay, but for what they say of this release. A model that is not served yet is added; the first
    becomes the default.

    >>> after = promoted(promoted(None, "din", "din-1"), "din", "din-2")
    >>> after.models["din"].live, after.models["din"].previous
    ('din-2', 'din-1')
    """
    if served is None:
        return Served(models={model: ServedModel(live=release)}, default=model)
    if model not in served.models:
        return _with_model(served, model, ServedModel(live=release))
    now = served.models[model]
    if now.live == release:
        return served
    return _with_model(served, model, _made_live(now, release))


def rolled_back(served: Served | None, model: str) -> Served:
    """Exchange the live and the previous release.

    Raises:
        NotFoundError: no such model is served.
        ReleaseError: nothing was live before.
    """
    served, now = _served_model(served, model)
    if not now.previous:
        raise ReleaseError(
            f"{model}: nothing was live before {now.live}: there is nothing to go back to; `recsys release promote` "
            "makes another release live"
        )
    return _with_model(served, model, _made_live(now, now.previous))


def with_split(served: Served | None, model: str, shares: Mapping[str, float]) -> Served:
    """Have other releases answer shares of the users, in percent.

    Args:
        served: the content so far.
        model: name that requests ask for.
        shares: release -> percentage. 0 takes a release out; releases that are not named keep their share; an empty
            mapping ends the split.

    Raises:
        NotFoundError: no such model is served.
        InvalidInputError: a percentage is out of range, or there are more than 100 % in all; a release is live.
    """
    return _with_shares(served, model, "split", shares)


def with_shadow(served: Served | None, model: str, shares: Mapping[str, float]) -> Served:
    """Have other releases score shares of the requests, too, in percent; arguments and errors of :func:`with_split`."""
    return _with_shares(served, model, "shadow", shares)


def _with_shares(served: Served | None, model: str, side: Side, shares: Mapping[str, float]) -> Served:
    served, now = _served_model(served, model)
    stands = now.split if side == "split" else now.shadow
    before = stands if shares else {}
    absent = [name for name, percent in shares.items() if percent == 0 and name not in before]
    if absent:
        raise ReleaseError(f"{side}: {absent[0]} has no share of {model} to take away: {nearest(absent[0], before)}")
    after = {name: percent for name, percent in {**before, **shares}.items() if percent != 0}
    if side == "split":
        return _with_model(served, model, dataclasses.replace(now, split=after))
    return _with_model(served, model, dataclasses.replace(now, shadow=after))


def _served_model(served: Served | None, model: str) -> tuple[Served, ServedModel]:
    if served is None:
        raise ReleaseError("nothing is served yet; `recsys release promote` makes a release live")
    if model not in served.models:
        raise NotFoundError(f"model {model!r} is not served: {nearest(model, served.models)}")
    return served, served.models[model]


def _made_live(model: ServedModel, release: str) -> ServedModel:
    return ServedModel(
        live=release,
        previous=model.live,
        split=_without(model.split, release),
        shadow=_without(model.shadow, release),
    )


def _without(shares: Mapping[str, float], release: str) -> dict[str, float]:
    return {name: percent for name, percent in shares.items() if name != release}


def _with_model(served: Served, name: str, model: ServedModel) -> Served:
    return dataclasses.replace(served, models={**served.models, name: model})
