"""Memory against quality, over row maps and budgets."""
