"""The torch-free gRPC server."""
