"""Parts of ``releases.py``. None is run by itself.

- ``bundles.py``: bundles that differ in one thing.
- ``stage.py``: a store of two releases, and servers that follow it; ``load.py``: calls to their workers.
- ``switches.py``: calls that fail, p99 and memory over many switches; ``limit.py``: the same with little memory.
- ``rollback.py``: seconds until all workers are back. ``shared.py``: bytes that are not stored again.
- ``states.py``: reads of the store after a release of a model with long histories.
- ``shadow.py``: answers beside a shadow; ``plan_process.py``: its server.
"""
