"""Models that rank all items, one a file, and the graph they propagate over."""
