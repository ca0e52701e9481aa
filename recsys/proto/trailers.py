"""Trailing metadata that server and client both know."""

from __future__ import annotations

STORE_TRAILER = ("recsys-error", "store")
"""Trailing metadata of a call that failed for the store's sake: UNAVAILABLE alone may also mean the server."""
