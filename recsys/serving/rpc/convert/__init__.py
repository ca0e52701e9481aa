"""Protobuf messages to domain values and back, a module for each group of calls."""
