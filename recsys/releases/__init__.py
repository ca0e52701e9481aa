"""Releases: what is served, chosen from a folder of immutable releases (``docs/guides/releases.md``).

::

    releases/
      served.json          what is served: the one small file, replaced atomically
      releases/NAME/       one release: release.json, ranking/, retrieval/; read-only
      files/AB/SHA256      each file of all bundles once; releases hold hard links
      status/HOST-PORT.json   what each server serves, and how its last switch went

- ``served.py``: ``served.json``, its fields and its rules;
- ``release.py``: ``release.json``, the record of one release;
- ``store.py``: the store as a whole: push, list, find, change what is served;
- ``push.py``, ``stored_files.py``: a push, step by step; files that are stored once;
- ``lock.py``: the store's lock; the user who changes it, and when;
- ``changes.py``: promote, roll back, split, shadow, from one content of ``served.json`` to the next;
- ``status.py``: ``status/*.json``, a file of each server; ``processes.py``: is it there still;
- ``following.py``: servers beside ``served.json``; waiting for them;
- ``prune.py``, ``verify.py``: releases that nothing needs; files of a release that were altered, or are shared;
- ``guards.py``: reasons for which a release may not be promoted; ``comparison.py``: its metrics beside another's.
"""
