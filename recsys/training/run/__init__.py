"""The folder of a run: configuration, checkpoint, record."""
