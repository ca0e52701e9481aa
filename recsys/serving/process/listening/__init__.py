"""Listening: where a server answers calls, from binding to the end of the drain.

- ``grpc_server.py``: gRPC's server and its addresses. ``ports.py``: a port that is free, or why it is not.
- ``handler_pool.py``: a call gets a thread when its message is here; ``waiting.py``: until then, and not for ever.
- ``refusing_server.py``: calls that have no time are refused before anything is made for them.
- ``rooms.py``: threads for each kind of call, health checks apart.
- ``certificates.py``: those of the server, followed as their files change; ``tls.py``: gRPC's use of them.
- ``health.py``: a port of health alone.
"""
