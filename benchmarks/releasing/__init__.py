"""Parts of the benchmark of releases.

- ``states.py``: reads of the store after a release of a model with long histories.
- ``shadow.py``: answers beside a shadow; ``plan_process.py``: its server.
"""
