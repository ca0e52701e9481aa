"""gRPC: services, messages to domain values and back, statuses, interceptors."""
