"""Assembly: a release with what answers calls by it, built from the parts that all releases of a server share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from recsys.errors import BundleError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.names import Names
from recsys.serving.added_items.follower import ItemFollower
from recsys.serving.filters.selection import IndexFilter
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.given_values import RequestNames
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.handlers.recorder import Recorder
from recsys.serving.handlers.related.audience import AudienceFinder
from recsys.serving.handlers.related.similar import SimilarFinder
from recsys.serving.handlers.related.trending import TrendingFinder
from recsys.serving.handlers.request_log import RequestLog
from recsys.serving.handlers.routes import LoadedRelease, Route, Routes
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.shard_rows import ShardRows
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.long_history.states import LongStates
from recsys.serving.process.models import Models
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.stores import Stores
from recsys.serving.settings import Settings
from recsys.serving.settings.items_shard import parse_items_shard
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger("recsys.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedParts:
    """Parts of a server that outlive its models.

    Attributes:
        settings: the server's.
        stores: where users and items are read.
        admission: the places of calls.
        model_lock: held while a model runs: one for all.
        state_counts: of the states of long histories.
        added_items: keeps current the items that came after training.
        request_log: None: no requests are logged.
        recorder: of requests for the replay before a switch; None: there is none.
        request_names: of what requests may give.
        columns: values of items; None: there are none.
        filter_counts: of looks for the items that pass.
        rule_counts: of what rules did.
        trending: counts of events; None: nothing is counted.
    """

    settings: Settings
    stores: Stores
    admission: Admission
    model_lock: FairLock
    state_counts: LabelCounts
    added_items: ItemFollower
    request_log: RequestLog | None
    recorder: Recorder | None = None
    request_names: RequestNames = field(default_factory=RequestNames)
    columns: ItemColumns | None = None
    filter_counts: LabelCounts = field(default_factory=LabelCounts)
    rule_counts: LabelCounts = field(default_factory=LabelCounts)
    trending: TrendingFinder | None = None


@contextmanager
def open_shared_parts(
    settings: Settings,
    stores: Stores,
    *,
    ranks: bool = True,
    telemetry: Telemetry | None = None,
    columns: ItemColumns | None = None,
    trending: TrendingFinder | None = None,
) -> Iterator[SharedParts]:
    """Make the parts for the duration of a ``with`` block.

    Args:
        settings: the server's.
        stores: not closed here.
        ranks: there is a ranking model, or may be one; without one there are no requests to log.
        telemetry: gets counts; None for none.
        columns: values of items; None: there are none.
        trending: counts of events; None: nothing is counted.

    Raises:
        ConfigError: the request log cannot be written.
    """
    with ExitStack() as stack:
        log = None
        if settings.log_requests and ranks:
            log = RequestLog(settings.request_log_dir, share=settings.log_requests)
            stack.enter_context(closing(log))
        added_items = ItemFollower(
            interval_s=settings.added_items_interval_s, most=settings.max_added_items, telemetry=telemetry
        )
        stack.enter_context(closing(added_items))
        yield SharedParts(
            settings=settings,
            stores=stores,
            admission=Admission(settings.max_in_flight),
            model_lock=FairLock(1),
            state_counts=LabelCounts(),
            added_items=added_items,
            request_log=log,
            recorder=Recorder() if settings.releases is not None and settings.release_replay else None,
            columns=columns,
            trending=trending,
        )


def open_loaded_release(planned: PlannedRelease, models: Models, shared: SharedParts) -> LoadedRelease:
    """Make a release ready to answer calls; the stores read by a FeatureSet that extends the release's."""
    with ExitStack() as stack:
        stack.callback(models.let_pages_go)
        store = stack.enter_context(shared.stores.reader(models.features))
        stack.enter_context(shared.request_names.loaded(models.features))
        ranker = _open_ranker(stack, planned.name, models, shared, store)
        recommender = similar = audience = None
        shard = parse_items_shard(shared.settings.items_shard)
        if shard is not None and models.retrieval is None:
            _log.warning("items_shard is %s, and release %s has no items to search a part of", shard, planned.name)
        if models.retrieval is not None:
            items = IndexFilter(shared.columns, models.retrieval.keys, counts=shared.filter_counts)
            added = stack.enter_context(shared.added_items.following(models.retrieval, store, release=planned.name))
            recommender = Recommender(
                models.retrieval,
                release=planned.name,
                ranker=ranker,
                store=store,
                admission=shared.admission,
                model_lock=shared.model_lock,
                store_timeout_s=shared.settings.store_timeout_ms / 1000,
                recorder=shared.recorder,
                added=added,
                items=items,
                names=shared.request_names,
                trending=shared.trending,
                shard=None if shard is None else ShardRows(shard, models.retrieval.keys),
            )
            answers: Any = {
                "model": models.retrieval.model,
                "model_version": models.retrieval.version,
                "release": planned.name,
                "admission": shared.admission,
                "model_lock": shared.model_lock,
            }
            similar = SimilarFinder(models.similar, models.neighbours, added=added, items=items, **answers)
            audience = AudienceFinder(models.audience, **answers)
        return LoadedRelease(
            name=planned.name,
            features=models.features,
            ranker=ranker,
            recommender=recommender,
            similar=similar,
            audience=audience,
            close=stack.pop_all().close,
            names=_names(models),
            slot=planned.slot,
            damage=models.damage,
            rest=models.rest,
        )


def make_routes(plan: Plan, loaded: Mapping[str, LoadedRelease]) -> Routes:
    """Routes of a plan; all its releases are loaded.

    Raises:
        BundleError: releases that share a name's requests do not have the same kinds of models.
    """
    models = {}
    for name, model in plan.models.items():
        route = Route(
            name=name,
            live=loaded[model.live],
            split=tuple((loaded[release], percent) for release, percent in sorted(model.split.items())),
            shadow=tuple((loaded[release], percent) for release, percent in sorted(model.shadow.items())),
        )
        _check_kinds(route)
        models[name] = route
    return Routes(models=models, default=plan.default, loaded=tuple(loaded[name] for name in plan.releases))


def _check_kinds(route: Route) -> None:
    live = route.live
    for release, _ in (*route.split, *route.shadow):
        for kind, own, other in (
            ("ranking", live.ranker, release.ranker),
            ("retrieval", live.recommender, release.recommender),
        ):
            if own is not None and other is None:
                raise BundleError(
                    f"release {release.name!r} has no {kind} model, and {live.name!r}, beside which it is to answer "
                    f"requests for {route.name!r}, has one"
                )


def _names(models: Models) -> dict[str, Names]:
    names: dict[str, Names] = {}
    if models.retrieval is not None and models.retrieval.names is not None:
        names[models.retrieval.features.item_id.table] = models.retrieval.names
    return names if models.ranking is None else {**names, **models.ranking.names}


def _open_ranker(
    stack: ExitStack, release: str, models: Models, shared: SharedParts, store: BlockingFeatureStore
) -> Ranker | None:
    session, states = models.ranking, None
    if session is None:
        return None
    if session.state is not None:
        states = LongStates(
            session.features,
            session.state,
            session.encode,
            store,
            session.state_version,
            shared.settings.state_ttl_s,
            counts=shared.state_counts,
        )
        stack.enter_context(closing(states))
    return Ranker(
        session,
        release=release,
        store=store,
        admission=shared.admission,
        model_lock=shared.model_lock,
        store_timeout_s=shared.settings.store_timeout_ms / 1000,
        states=states,
        request_log=shared.request_log,
        recorder=shared.recorder,
        names=shared.request_names,
        columns=shared.columns,
        rule_counts=shared.rule_counts,
        vectors=None if models.retrieval is None else models.retrieval.vectors,
    )
