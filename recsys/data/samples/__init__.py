"""Training samples: point-in-time histories, codes, batches."""
