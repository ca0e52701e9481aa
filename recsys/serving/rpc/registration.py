"""Registration: the services of a server, added to it."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from recsys.proto import feature_store_pb2_grpc, ranker_pb2_grpc, related_pb2_grpc
from recsys.proto.limits import MESSAGE_BYTES
from recsys.serving.rpc.health import Health
from recsys.serving.rpc.methods import SERVICES
from recsys.serving.rpc.ranker_service import RankerService
from recsys.serving.rpc.related_service import RelatedService
from recsys.serving.rpc.store_service import FeatureStoreService

MESSAGE_OPTIONS = (("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES))
"""Options of a server of these services: the longest messages."""


def add_services(
    server: grpc.Server,
    ranker: RankerService,
    related: RelatedService,
    feature_store: FeatureStoreService,
    health: Health,
) -> None:
    """Register the services of ``recsys.v1``, health and reflection."""
    ranker_pb2_grpc.add_RankerServicer_to_server(ranker, server)  # type: ignore[no-untyped-call]
    related_pb2_grpc.add_RelatedServicer_to_server(related, server)  # type: ignore[no-untyped-call]
    feature_store_pb2_grpc.add_FeatureStoreServicer_to_server(feature_store, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [service.full_name for service in (*SERVICES, *health_pb2.DESCRIPTOR.services_by_name.values())]
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
