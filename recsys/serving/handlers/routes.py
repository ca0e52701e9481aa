"""Routes: which loaded release answers a call, by the name of the model asked for and the user.

A user stays with a release for as long as the percentages do: the choice is a hash of the name asked for and the user,
not a draw. A split that grows keeps the users it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import xxhash

from recsys.errors import NotFoundError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.features.names import Names
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.handlers.related.audience import AudienceFinder
from recsys.serving.handlers.related.similar import SimilarFinder

_POINTS = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedRelease:
    """A release, ready to answer calls.

    Attributes:
        name: of the release.
        features: of its ranking model, or else of its retrieval model.
        ranker: None: it has no ranking model.
        recommender: None: it has no retrieval model.
        similar, audience: beside a recommender: answer Similar and Audience.
        names: the texts of string ids that came with it, by embedding table.
        slot: the place of its counts among those of all releases.
        close: ends what belongs to it, such as the thread that writes states; called once.
        damage: looks at the files of its tables; returns what is wrong with them, for good, or an empty text. A damaged
            release answers every call with ModelError.
        rest: called when it answers no calls any more and is only kept; may take a while.
    """

    name: str
    features: FeatureSet
    ranker: Ranker | None
    recommender: Recommender | None
    similar: SimilarFinder | None = None
    audience: AudienceFinder | None = None
    close: Callable[[], None]
    names: Mapping[str, Names] = field(default_factory=dict)
    slot: int = 0
    damage: Callable[[], str] = str
    rest: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The releases of one model's name.

    Attributes:
        name: that requests ask for.
        live: answers whom no split takes.
        split: other releases, and the percentage of the users that each answers; in an order that stays.
        shadow: other releases, and the percentage of the requests that each scores, too.
    """

    name: str
    live: LoadedRelease
    split: tuple[tuple[LoadedRelease, float], ...] = ()
    shadow: tuple[tuple[LoadedRelease, float], ...] = ()

    def of_user(self, user_key: int) -> LoadedRelease:
        """The release that answers a user."""
        if not self.split:
            return self.live
        point = user_point(self.name, user_key)
        end = 0.0
        for release, percent in self.split:
            end += percent
            if point < end:
                return release
        return self.live

    def release(self, name: str) -> LoadedRelease:
        """One of the route's releases by its name, whomever it answers.

        Raises:
            NotFoundError: none has the name.
        """
        releases = {r.name: r for r in (self.live, *(other for other, _ in (*self.split, *self.shadow)))}
        if name not in releases:
            raise NotFoundError(
                f"release {name!r} has no part in the requests for model {self.name!r}: {nearest(name, releases)}"
            )
        return releases[name]


def user_point(name: str, user_key: int) -> float:
    """A user's place in [0, 100) among the users of one model's name: the same on every server, at any time.

    >>> user_point("din", 1193) == user_point("din", 1193) != user_point("sdim", 1193)
    True
    """
    digest = xxhash.xxh3_64_intdigest(f"{name}\n{user_key}".encode()) >> 32
    return digest * 100.0 / _POINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """All that answers calls at a time.

    Attributes:
        models: route by the name that requests ask for; at least one.
        default: the name that a request without one means.
        loaded: all releases, those that are kept for a rollback among them.
    """

    models: Mapping[str, Route]
    default: str
    loaded: tuple[LoadedRelease, ...]

    @property
    def first(self) -> LoadedRelease:
        """The live release of the default model."""
        return self.models[self.default].live

    def damage(self) -> str:
        """Damage to the live releases, if every one of them is damaged; else an empty text."""
        texts = {route.live.name: route.live.damage() for route in self.models.values()}
        return " ".join(texts.values()) if all(texts.values()) else ""

    def ranking(self, model: str) -> Route:
        """The route of a model's name; an empty one is the default.

        Raises:
            NotFoundError: there is none, or it has no ranking model.
        """
        route = self.models.get(model or self.default)
        if route is None:
            raise NotFoundError(f"model {model!r} is not served here: {nearest(model, self.models)}")
        if route.live.ranker is None:
            able = [name for name, other in self.models.items() if other.live.ranker is not None]
            raise NotFoundError(
                f"model {route.name!r} has no ranking model, only one for Retrieve; ranking: {nearest('', able)}"
            )
        return route

    def retrieval(self, model: str) -> Route:
        """The route whose releases retrieve, by its name or that of its retrieval model; empty: the default's, or the
        only one.

        Raises:
            NotFoundError: there is none.
        """
        able = {name: route for name, route in self.models.items() if route.live.recommender is not None}
        if not able:
            raise NotFoundError(
                "this server has no retrieval model; serve one: recsys serve BUNDLE --retrieval FOLDER, or "
                "recsys release push BUNDLE --retrieval FOLDER"
            )
        if not model:
            if self.default in able or len(able) == 1:
                return able.get(self.default) or next(iter(able.values()))
            raise NotFoundError(f"model: none is named, and the default has no retrieval model: {nearest('', able)}")
        if model in able:
            return able[model]
        # Of several names with one retrieval model, the default's is meant, else the first.
        order = sorted(able.values(), key=lambda route: route.name != self.default)
        by_model = {r.live.recommender.index.model: r for r in reversed(order) if r.live.recommender is not None}
        if (route := by_model.get(model)) is None:
            raise NotFoundError(f"retrieval model {model!r} is not served here: {nearest(model, by_model)}")
        return route

    def recommending(self, model: str) -> Route:
        """The route whose ranking model orders a Recommend call.

        Raises:
            NotFoundError: there is none.
        """
        if not model and all(route.live.ranker is None for route in self.models.values()):
            raise NotFoundError("no ranking model is served here, only a retrieval model; ask it by Retrieve")
        return self.ranking(model)

    def recommender(self, route: Route, retrieval_model: str, user_key: int) -> Recommender:
        """Pair the ranking model of a user's release with the retrieval model asked for; empty: the release's own.

        Raises:
            NotFoundError: there is no such model.
            BundleError: their ids are not the same.
        """
        release = route.of_user(user_key)
        own = release.recommender
        if own is not None and retrieval_model in ("", own.index.model):
            return own
        found = recommender_of(self.retrieval(retrieval_model).of_user(user_key))
        return found.ranked_by(ranker_of(release))


def ranker_of(release: LoadedRelease) -> Ranker:
    """The release's ranker; NotFoundError if it has no ranking model."""
    if release.ranker is None:
        raise NotFoundError(f"release {release.name!r} has no ranking model, only one for Retrieve")
    return release.ranker


def recommender_of(release: LoadedRelease) -> Recommender:
    """The release's recommender; NotFoundError if it has no retrieval model."""
    if release.recommender is None:
        raise NotFoundError(f"release {release.name!r} has no retrieval model")
    return release.recommender


def similar_of(release: LoadedRelease) -> tuple[Recommender, SimilarFinder]:
    """The release's recommender and what answers Similar by the same model; NotFoundError as :func:`recommender_of`."""
    recommender = recommender_of(release)
    assert release.similar is not None, "comes with the recommender"
    return recommender, release.similar


def audience_of(release: LoadedRelease) -> AudienceFinder:
    """The finder of audiences of the release; NotFoundError as :func:`recommender_of`."""
    recommender_of(release)
    assert release.audience is not None, "comes with the recommender"
    return release.audience
