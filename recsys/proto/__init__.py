"""Protobuf code that ``scripts/generate_protos.py`` generates, and the trailers that server and client both know."""
