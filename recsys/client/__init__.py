"""The Python client, for backends.

::

    with Client("127.0.0.1:50051") as client:
        ranking = client.rank(user=42, candidates=[1, 2, 3], top_k=2)
        print(ranking.items, ranking.scores)

:class:`AsyncClient` has the same methods, awaited. A server that speaks TLS is called with ``tls=Tls(ca="ca.pem")``,
which is of :class:`Tls`; addresses have no scheme. Ids are integers or strings, whichever the
FeatureSet declares; sequences may be lists or numpy arrays. A string id of which the server knows the key alone
comes back as an :class:`UnknownText`. Timeouts are in seconds, above 0 and finite. A call that finds the server
unavailable is repeated up to twice within its timeout (but not :meth:`Client.append_stream`): every call may safely
run twice. So is one that is refused for load, after the time that the server names, if that is within its timeout;
otherwise :class:`Overloaded` comes at once, with ``retry_after_s``. In a program that uses OpenTelemetry calls carry
its current span (``traceparent``). Errors::

    RpcError (a RecsysError)      code and message
    ├── InvalidArgument           also an InvalidInputError; the message says what is allowed, sizes of messages too
    ├── NotFound                  also a NotFoundError: no such model
    ├── NotExported               also a NotExportedError: the bundle lacks what the call needs
    ├── Unauthenticated           also an AuthenticationError: no token, or none that is good
    ├── PermissionDenied          also an AccessError: the caller lacks the role
    ├── Overloaded                also an OverloadedError: no room or time; retry after ``retry_after_s``
    ├── Unavailable               the server is unreachable or draining
    │   └── StoreUnavailable      also a StoreUnavailableError: only the store behind it is unreachable
    ├── StoreRefused              also a StoreError: store full, foreign bytes or another layout
    ├── ShardsDiffer              also a ReleaseError: servers of a ShardedRetriever are not all shards of one model
    └── DeadlineExceeded          also a TimeoutError

``blocking.py`` and ``aio.py`` are the two clients; ``shards.py`` asks several servers for one list; ``address.py``,
``context.py`` (the caller's span), ``channel.py`` (calls, statuses to errors), ``connection.py`` (a channel that
follows certificates), ``retries.py`` (of calls that are refused for load), ``filters.py`` (which items an answer may
have), ``rules.py`` (how a list is made of them), ``tls.py``, ``token.py`` (who calls) and ``messages/`` (arguments to
messages and back) serve both; ``types.py`` has results and errors. A new call is a method of each client, a request and
a result in ``messages/``, and a line of ``channel.Calls``.
"""

from recsys.client.aio import AsyncClient
from recsys.client.blocking import Client
from recsys.client.filters import Either, Where, above, below, between, either, missing, present, where, without
from recsys.client.rules import at_most, boost, diverse, pin
from recsys.client.shards import AsyncShardedRetriever, ShardedRetriever
from recsys.client.tls import Tls
from recsys.client.types import (
    Appended,
    AppendSummary,
    Audience,
    Contribution,
    DeadlineExceeded,
    EntityFeatures,
    ExplainedEvents,
    Explanation,
    FilterReport,
    InvalidArgument,
    ItemReason,
    ListPlace,
    ListQuery,
    NotExported,
    NotFound,
    Overloaded,
    PermissionDenied,
    Ranking,
    RankQuery,
    Recommendation,
    Retrieval,
    RpcError,
    RuleEffect,
    RulesReport,
    ShardsDiffer,
    SimilarItems,
    StoreRefused,
    StoreUnavailable,
    TrendingItems,
    Unauthenticated,
    Unavailable,
    UserEvents,
    UserHistory,
)
from recsys.features.names import UnknownText

__all__ = [
    "Either",
    "FilterReport",
    "Where",
    "above",
    "at_most",
    "below",
    "boost",
    "diverse",
    "pin",
    "between",
    "either",
    "missing",
    "present",
    "where",
    "without",
    "AppendSummary",
    "Audience",
    "Appended",
    "AsyncClient",
    "AsyncShardedRetriever",
    "Client",
    "Contribution",
    "DeadlineExceeded",
    "EntityFeatures",
    "ExplainedEvents",
    "Explanation",
    "InvalidArgument",
    "ItemReason",
    "ListPlace",
    "ListQuery",
    "NotExported",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "RankQuery",
    "Ranking",
    "Recommendation",
    "Retrieval",
    "RpcError",
    "RuleEffect",
    "RulesReport",
    "ShardedRetriever",
    "ShardsDiffer",
    "SimilarItems",
    "StoreRefused",
    "StoreUnavailable",
    "Tls",
    "TrendingItems",
    "Unauthenticated",
    "Unavailable",
    "UnknownText",
    "UserEvents",
    "UserHistory",
]
