"""Tables of a run: their plan, growth and report."""
