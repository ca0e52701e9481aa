"""Metadata that server and client both know: trailing, and of a caller."""

from __future__ import annotations

STORE_TRAILER = ("recsys-error", "store")
"""Trailing metadata of a call that failed for the store's sake: UNAVAILABLE alone may also mean the server."""

EXPORT_TRAILER = ("recsys-error", "export")
"""Trailing metadata of a call that failed as the bundle was exported without what it needs."""

REQUEST_ID = "x-request-id"
"""Key of a call's id: a caller may send one, and the server's trailers have the one that counts."""

RETRY_TRAILER = "grpc-retry-pushback-ms"
"""Key of the milliseconds after which a caller that was refused may come again; gRPC's own clients know it."""
