"""The offline side: event logs to user-sorted event tables, samples and batches."""
