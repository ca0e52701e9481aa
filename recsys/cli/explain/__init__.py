"""`recsys explain`: what made a score: a running server's, or that of a run's AutoInt for a sample.

- ``command.py``: the command, and which of the two is meant;
- ``score.py``: contributions and past events, asked of a server; ``drawing.py``: as charts;
- ``sample.py``: attention weights between the features of a sample.
"""
