"""Rewrites of exported graphs, each with an identity test."""
