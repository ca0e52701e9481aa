"""The blocking client; import it from :mod:`recsys.client`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from recsys.client.channel import (
    EXPLAIN_S,
    HEALTH,
    READY_POLL_S,
    STREAM_S,
    UNAVAILABLE,
    Waiting,
    check_timeout_s,
    closed_error,
    errors,
    serving,
)
from recsys.client.connection import Connection
from recsys.client.filters import Where
from recsys.client.messages import explain, feature_store, ranker, related
from recsys.client.retries import Retries
from recsys.client.rules import Rule
from recsys.client.tls import Tls
from recsys.client.token import CallToken
from recsys.client.types import (
    Appended,
    AppendSummary,
    Audience,
    EntityFeatures,
    Explanation,
    Id,
    Ids,
    Integers,
    ListQuery,
    Overloaded,
    Ranking,
    RankQuery,
    Recommendation,
    Retrieval,
    RpcError,
    SimilarItems,
    TrendingItems,
    UserEvents,
    UserHistory,
)


class Client:
    """Blocking client of the server at ``address``. Safe to share between threads.

    Args:
        address: where the server is: host:port, or a host alone (port 50051); connecting happens at the first call.
        timeout_s: how long a call may take that is given no timeout of its own.
        tls: certificates, for a server that speaks TLS; None: in the clear.
        token: says who calls: the token, or the Path of a file with it, which is read again when it changes.
        token_in_clear: send it without TLS to another machine, too, where everybody on the way can read it.

    Raises:
        InvalidInputError: the address or the timeout is none, a certificate is no good, or the token would be sent in
            clear.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout_s: float = 1.0,
        tls: Tls | None = None,
        token: str | Path | None = None,
        token_in_clear: bool = False,
    ) -> None:
        self._timeout_s = check_timeout_s(timeout_s)
        self._token = CallToken(token, address=address, secured=tls is not None, in_clear=token_in_clear)
        self._closed = False
        self._connection = Connection(
            address, tls, open_channel=_channel, close_channel=lambda channel: channel.close()
        )

    def rank(
        self,
        *,
        user: Id,
        candidates: Ids,
        features: Mapping[str, Any] | None = None,
        top_k: int = 0,
        model: str = "",
        time_ms: int | None = None,
        filter: Where | None = None,
        rules: Sequence[Rule] = (),
        reasons: bool = False,
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Ranking:
        """Score candidates for a user.

        Args:
            user: the user's id.
            candidates: C item ids.
            features: user or context features that override stored ones: a value, or a list of them.
            top_k: 0 for all scores; otherwise only the best ``top_k`` distinct candidates.
            model: empty for the server's only one.
            time_ms: rank as of then: only events with an earlier timestamp count; default: now.
            filter: score only candidates that pass; the others are in ``Ranking.filter.filtered_out``.
            rules: by which the list is made of them, up to 64, with ``top_k``: ``[at_most(2, "brand"), pin(7, 1)]``.
            reasons: say of each item what moved it, in ``Ranking.rules.reasons``.
            timings: ask what the call took.
            timeout_s: for this call.

        Raises:
            RpcError: see the module's docstring.
            InvalidInputError: ids of mixed or unsupported types, or a negative or fractional ``top_k``.
        """
        query = RankQuery(
            user=user,
            candidates=candidates,
            features=features,
            top_k=top_k,
            model=model,
            time_ms=time_ms,
            filter=filter,
            rules=rules,
            reasons=reasons,
        )
        request = ranker.rank_request(query, timings=timings)
        return ranker.ranking(self._answer("rank", request, timeout_s), candidates)

    def rank_batch(
        self, requests: Sequence[RankQuery], *, timings: bool = False, timeout_s: float | None = None
    ) -> list[Ranking]:
        """Score the candidates of up to 100 requests, in one round trip to the feature store. Raises as :meth:`rank`.

        ::

            lists = client.rank_batch([RankQuery(user=42, candidates=[1, 2]), RankQuery(user=43, candidates=[2, 3])])
        """
        request = ranker.rank_batch_request(requests, timings=timings)
        return ranker.rankings(self._answer("rank_batch", request, timeout_s), requests)

    def retrieve(
        self,
        *,
        user: Id,
        top_k: int = 100,
        features: Mapping[str, Any] | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
        model: str = "",
        time_ms: int | None = None,
        filter: Where | None = None,
        fallback: str = "",
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Retrieval:
        """The best items of all that the retrieval model knows. Raises as :meth:`rank`.

        Args:
            user: the user's id.
            top_k: how many, 1 to 10,000.
            features: of the user, in place of what is stored, as in :meth:`rank`.
            exclude: items to leave out besides those of the user's history.
            include_seen: do not leave out the items of the history.
            model: empty for the server's only one.
            time_ms: the history as of then; default: now.
            filter: only items that pass: ``where(category="shoes", price=(None, 50), in_stock=True)``.
            fallback: for a user whom the model does not know, and who has no segment: ``trending`` gives the items with
                most events lately, then the most popular ones; empty or ``popularity`` these alone.
            timings: ask what the call took.
            timeout_s: for this call.
        """
        request = ranker.retrieve_request(
            user, top_k, features, exclude, include_seen, model, time_ms, timings, filter, fallback
        )
        return ranker.retrieval(self._answer("retrieve", request, timeout_s))

    def recommend(
        self,
        *,
        user: Id,
        top_k: int = 10,
        candidates: int = 0,
        features: Mapping[str, Any] | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
        model: str = "",
        retrieval_model: str = "",
        time_ms: int | None = None,
        filter: Where | None = None,
        fallback: str = "",
        rules: Sequence[Rule] = (),
        reasons: bool = False,
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Recommendation:
        """The best items of all: :meth:`retrieve` and :meth:`rank` in one call, from a user id alone. Raises as these.

        ::

            best = client.recommend(user=42, top_k=10)
            print(best.items, best.scores)

        Args:
            user, exclude, include_seen: as of :meth:`retrieve`.
            top_k: how many.
            candidates: how many items are retrieved and ranked; 0 for 500 or ``top_k``, whichever is more.
            features, model, time_ms: as of :meth:`rank`.
            filter, fallback: as of :meth:`retrieve`; of the candidates.
            rules, reasons: as of :meth:`rank`, and ``diverse(0.7)``: by which the list is made of what was ranked.
            retrieval_model: empty for the server's only one.
            timings: ask what the call took.
            timeout_s: for this call.
        """
        request = ranker.recommend_request(
            user,
            top_k,
            candidates,
            features,
            exclude,
            include_seen,
            model,
            retrieval_model,
            time_ms,
            timings,
            filter,
            rules,
            reasons,
            fallback,
        )
        return ranker.recommendation(self._answer("recommend", request, timeout_s))

    def explain(
        self,
        *,
        user: Id,
        item: Id,
        features: Mapping[str, Any] | None = None,
        model: str = "",
        release: str = "",
        time_ms: int | None = None,
        max_events: int = 0,
        within: ListQuery | None = None,
        timeout_s: float | None = None,
    ) -> Explanation:
        """Explain a score: what each feature contributes to it, and what leaving out each past event changes.

        ::

            why = client.explain(user=42, item=7)
            print(why.score, {part.name: part.contribution for part in why.contributions})

        Args:
            user, item: their ids.
            features, model, time_ms: as of :meth:`rank`.
            release: name of the release to explain; empty for the one that answers this user.
            max_events: newest events that are left out one by one, up to 200; 0 for 50.
            within: explain the item's place in this list, too: ``ListQuery(top_k=20, rules=[at_most(2, "brand")])``.
            timeout_s: for this call; default: 10 s.

        Raises:
            Overloaded: the server is working on another explanation.
            RpcError, InvalidInputError: as :meth:`rank`.
        """
        request = explain.request(user, item, features, model, release, time_ms, max_events, within)
        return explain.explanation(self._answer("explain", request, EXPLAIN_S if timeout_s is None else timeout_s))

    def similar(
        self,
        *,
        items: Ids,
        top_k: int = 10,
        exclude: Ids | None = None,
        filter: Where | None = None,
        by: str = "",
        model: str = "",
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> SimilarItems:
        """The items most like given ones: of a page, or a basket. Raises as :meth:`rank`.

        ::

            near = client.similar(items=[1193], top_k=10)
            print(near.items, near.unknown)

        Args:
            items: 1 to 100 ids; those that nobody knows are in the answer's ``unknown``.
            top_k: how many, 1 to 10,000.
            exclude: items to leave out besides those.
            filter: only items that pass, see :func:`recsys.client.where`; the given ones need not.
            by: what makes items alike: ``vectors``, or ``users`` whom they share; empty: vectors, and users where no
                vector of the given ones is known. The answer's ``by`` says which.
            model: of retrieval; empty for the server's only one.
            timings: ask what the call took.
            timeout_s: for this call.
        """
        request = related.similar_request(items, top_k, exclude, model, timings, filter, by)
        return related.similar_items(self._answer("similar", request, timeout_s), items)

    def audience(
        self,
        *,
        items: Ids,
        top_k: int = 100,
        at_least: int = 1,
        model: str = "",
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> Audience:
        """The users who have most of some items, in the log of the bundle; of equal ones those with fewer items in all.

        Needs the role ``audience``. Raises as :meth:`rank`, and NotExported where the bundle names no users. ::

            campaign = client.audience(items=[1193, 661, 914], top_k=1_000, at_least=2)
            print(campaign.total, campaign.users, campaign.shared)

        Args:
            items: 1 to 100 ids; those that no user has are in the answer's ``unknown``.
            top_k: how many users, 1 to 10,000.
            at_least: how many of the items a user must have.
            model: of retrieval; empty for the server's only one.
            timings: ask what the call took.
            timeout_s: for this call.
        """
        request = related.audience_request(items, top_k, at_least, model, timings)
        return related.audience(self._answer("audience", request, timeout_s), items)

    def trending(
        self,
        *,
        top_k: int = 10,
        exclude: Ids | None = None,
        filter: Where | None = None,
        timings: bool = False,
        timeout_s: float | None = None,
    ) -> TrendingItems:
        """The items with most events lately, an event counting half after each half-life. Raises as :meth:`rank`.

        Args:
            top_k: how many, 1 to 10,000.
            exclude: items to leave out.
            filter: only items that pass, see :func:`recsys.client.where`.
            timings: ask what the call took.
            timeout_s: for this call.
        """
        request = related.trending_request(top_k, exclude, timings, filter)
        return related.trending_items(self._answer("trending", request, timeout_s))

    def append_events(
        self,
        *,
        user: Id,
        items: Ids,
        timestamps_ms: Integers,
        arrivals_ms: Integers | None = None,
        attributes: Mapping[str, Any] | None = None,
        source: str = "",
        offsets: Integers | None = None,
        restart_source: bool = False,
        timeout_s: float | None = None,
    ) -> Appended:
        """Append L events to a user's history; sending one again has no effect. Raises as :meth:`rank`.

        Arguments are explained in :class:`UserEvents`. ::

            client.append_events(user=42, items=[7], timestamps_ms=[1_700_000_000_000], attributes={"rating": [5]})
        """
        batch = UserEvents(
            user=user,
            items=items,
            timestamps_ms=timestamps_ms,
            arrivals_ms=arrivals_ms,
            attributes=attributes,
            source=source,
            offsets=offsets,
            restart_source=restart_source,
        )
        request = feature_store.append_request(batch)
        return feature_store.appended(self._answer("append_events", request, timeout_s))

    def append_stream(self, batches: Iterable[UserEvents], *, timeout_s: float | None = None) -> AppendSummary:
        """Append the events of many users, as fast as the server can write them; much faster than call by call.

        What the server does not allow it rejects, and goes on: see ``rejections``. ::

            batches = (UserEvents(user=u, items=[7], timestamps_ms=[1_700_000_000_000]) for u in range(1000))
            print(client.append_stream(batches).added)

        Args:
            batches: read in another thread as the server takes them. Its exception ends the stream and is raised.
            timeout_s: for the whole stream; default: ten minutes.

        Raises:
            RpcError: see the module's docstring; the message says how far it came. Send all again if you like:
                nothing is added twice.
            InvalidInputError: ids of mixed or unsupported types. As after any exception, batches before may be applied.
        """
        problem: list[BaseException] = []

        def requests() -> Iterator[Any]:
            # gRPC would log an exception, and not raise it.
            try:
                for index, batch in enumerate(batches):
                    yield feature_store.stream_request(batch, index)
            except Exception as error:
                problem.append(error)

        limit_s = self._limit_s(timeout_s, STREAM_S)
        with self._connection.calls() as calls, errors(tls=self._connection.tls):
            response = calls.append_stream(requests(), timeout=limit_s, metadata=self._token.metadata())
        if problem:
            raise problem[0]
        return feature_store.append_summary(response)

    def put_entities(
        self,
        *,
        entity: str,
        ids: Ids,
        features: Mapping[str, Any],
        clear: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Store the features of N entities of one kind, in place of all they had. Raises as :meth:`rank`.

        ::

            client.put_entities(entity="item", ids=[7, 8], features={"price": [9.5, None], "tags": [["new"], []]})

        Args:
            entity: ``user``, ``item`` or another that the FeatureSet declares.
            ids: length N, 1 to 10,000.
            features: for every feature N values; ``None`` for a missing one; lists where the feature is
                multi-valued. One that is not given becomes missing.
            clear: there may be no value at all: every feature becomes missing.
        """
        request = feature_store.put_request(entity, ids, features, clear=clear)
        self._answer("put_entities", request, timeout_s)

    def withdraw_items(self, *, items: Ids, timeout_s: float | None = None) -> None:
        """Withdraw N items, known or not: no server retrieves them any more within a second, until they are put again
        by :meth:`put_entities`. Their features are deleted. Raises as :meth:`rank`."""
        self._answer("withdraw_items", feature_store.withdraw_request(items), timeout_s)

    def get_features(self, *, entity: str, ids: Ids, timeout_s: float | None = None) -> EntityFeatures:
        """The stored features of N entities of one kind, as far as they can be read. Raises as :meth:`rank`.

        ::

            prices = client.get_features(entity="item", ids=[7, 8]).columns["price"]
        """
        request = feature_store.features_request(entity, ids)
        return feature_store.entity_features(self._answer("get_features", request, timeout_s), ids)

    def get_history(
        self,
        *,
        user: Id,
        limit: int = 0,
        since_ms: int | None = None,
        until_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> UserHistory:
        """The newest events of a user. Raises as :meth:`rank`.

        ::

            today = client.get_history(user=42, limit=10_000, since_ms=midnight_ms)

        Args:
            user: the user's id.
            limit: most events, up to 10,000; 0 for as many as a model reads.
            since_ms, until_ms: only events with since_ms <= timestamp < until_ms; default: all. For the page before
                this one ask ``until_ms=timestamps_ms[0] + 1``, and drop the events at its end that you have.
        """
        request = feature_store.history_request(user, limit, since_ms, until_ms)
        return feature_store.user_history(self._answer("get_history", request, timeout_s))

    def get_histories(self, *, users: Ids, limit: int = 0, timeout_s: float | None = None) -> list[UserHistory]:
        """The newest events of each of up to 1,000 users, in their order. Raises as :meth:`rank`.

        ::

            for history in client.get_histories(users=[42, 43], limit=10):
                print(history.items)

        Args:
            users: the users' ids.
            limit: most events of each, 50,000 in all; 0 for as many as a model reads.
        """
        request = feature_store.histories_request(users, limit)
        return feature_store.user_histories(self._answer("get_histories", request, timeout_s))

    def is_ready(self, *, timeout_s: float | None = None) -> bool:
        """Ask whether the server answers and is not draining."""
        try:
            return serving(self._answer("health", HEALTH, timeout_s))
        except RpcError:
            return False

    def wait_ready(self, *, timeout_s: float = 30.0) -> None:
        """Return once the server is ready; DeadlineExceeded, with the last reason, if it is not after ``timeout_s``."""
        waiting = Waiting(self._limit_s(timeout_s, timeout_s))
        while True:
            left_s = waiting.left_s()
            try:
                if serving(self._answer("health", HEALTH, left_s)):
                    return
            except RpcError as error:
                waiting.failed(error)
            time.sleep(READY_POLL_S)

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._closed = True
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self, name: str, request: Any, timeout_s: float | None) -> Any:
        limit_s = self._limit_s(timeout_s, self._timeout_s)
        retries = Retries(limit_s)
        while True:
            try:
                return self._ask(name, request, limit_s)
            except Overloaded as error:
                time.sleep(retries.wait_s(error))
                limit_s = retries.left_s()

    def _ask(self, name: str, request: Any, limit_s: float) -> Any:
        at_s = time.monotonic() + limit_s
        tls = self._connection.tls
        with self._connection.calls() as calls:
            try:
                with errors(tls=tls):
                    return getattr(calls, name)(request, timeout=limit_s, metadata=self._token.metadata())
            except RpcError as error:
                left_s = at_s - time.monotonic()
                # Certificates may have changed on both sides since the last look at ours.
                if error.code != UNAVAILABLE or left_s <= 0 or not self._connection.replaced(calls):
                    raise
        with self._connection.calls() as calls, errors(tls=tls):
            return getattr(calls, name)(request, timeout=left_s, metadata=self._token.metadata())

    def _limit_s(self, timeout_s: float | None, default_s: float) -> float:
        if self._closed:
            raise closed_error()
        return default_s if timeout_s is None else check_timeout_s(timeout_s)


def _channel(target: str, options: list[tuple[str, Any]], credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)
