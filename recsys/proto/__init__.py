"""Protobuf code that ``scripts/generate_protos.py`` generates; trailers and limits that server and client both know."""
