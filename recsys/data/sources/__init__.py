"""Public data sets, read into our schema."""
