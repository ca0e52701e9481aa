"""Request handlers: plain functions that know no gRPC."""
