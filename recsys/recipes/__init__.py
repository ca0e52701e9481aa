"""Full runs as functions that return one configuration."""
