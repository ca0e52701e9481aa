"""Roles: what a caller may do, and the role that each method asks for."""

from __future__ import annotations

from collections.abc import Mapping

ROLES: Mapping[str, str] = {
    "rank": "rank and find items: Rank, RankBatch, Retrieve, Recommend, Similar, Trending",
    "audience": "find users, by the items that they have: Audience",
    "read": "read what is stored: features, histories, explanations of scores by them",
    "write": "change what is stored: events, features",
    "admin": "status of releases and reload, reflection",
}
"""Roles and what each allows. None includes another one."""

_RANKER, _STORE, _ADMIN = "/recsys.v1.Ranker/", "/recsys.v1.FeatureStore/", "/recsys.v1.Admin/"
_RELATED, _HEALTH = "/recsys.v1.Related/", "/grpc.health.v1.Health/"

METHOD_ROLES: Mapping[str, str | None] = {
    _RANKER + "Rank": "rank",
    _RANKER + "RankBatch": "rank",
    _RANKER + "Retrieve": "rank",
    _RANKER + "Recommend": "rank",
    # It shows what a user did, event by event.
    _RANKER + "Explain": "read",
    _RELATED + "Similar": "rank",
    _RELATED + "Trending": "rank",
    # It names users whom the caller did not.
    _RELATED + "Audience": "audience",
    _STORE + "AppendEvents": "write",
    _STORE + "AppendEventStream": "write",
    _STORE + "PutEntities": "write",
    _STORE + "WithdrawItems": "write",
    _STORE + "GetFeatures": "read",
    _STORE + "GetHistory": "read",
    _STORE + "GetHistories": "read",
    _ADMIN + "Reload": "admin",
    _ADMIN + "GetStatus": "admin",
    # It describes the services to tools; who has the protos needs none.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "admin",
    # Load balancers and kubelet have no tokens, and learn only what is up. The watchdog asks nothing else.
    _HEALTH + "Check": None,
    _HEALTH + "List": None,
    _HEALTH + "Watch": None,
}
"""Path, as gRPC has it -> the role that its callers need; None: open to everybody. Others are denied."""
