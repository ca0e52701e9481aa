"""Methods: the calls of recsys.v1, as the service descriptors list them."""

from __future__ import annotations

from recsys.proto import feature_store_pb2, ranker_pb2, related_pb2

SERVICES = tuple(
    service
    for file in (ranker_pb2, related_pb2, feature_store_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""Descriptors of the services that a server registers."""

METHODS = {f"/{service.full_name}/{method.name}": method.name for service in SERVICES for method in service.methods}
"""Path, as gRPC has it -> name, under which calls are counted."""

RANKER = ranker_pb2.DESCRIPTOR.services_by_name["Ranker"].full_name
RELATED = related_pb2.DESCRIPTOR.services_by_name["Related"].full_name
"""The services that models answer."""
