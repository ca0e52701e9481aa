"""Helpers of the tests: tiny bundles, servers, logs, runs; real Redis servers."""
