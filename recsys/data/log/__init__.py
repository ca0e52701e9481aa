"""Raw logs of any size to event tables, sorted by user and time."""
