"""Counters, the page that shows them, the stages of a request."""
