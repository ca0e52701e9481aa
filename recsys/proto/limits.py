"""Limits that server and client both know."""

from __future__ import annotations

MESSAGE_BYTES = 16 << 20
"""The longest message, request or answer: what ``max_candidates`` allows, with long string ids."""
