"""Parts of ``rank.py`` and of other benchmarks that ask a ranking server. None is run by itself."""
