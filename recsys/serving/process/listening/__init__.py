"""Listening: where a server answers calls, from binding to the end of the drain.

- ``grpc_server.py``: gRPC's server and its addresses. ``ports.py``: a port that is free, or why it is not.
"""
