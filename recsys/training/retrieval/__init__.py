"""Training of models that rank all items."""
