"""Releases: what is served, chosen from a folder of immutable releases (``docs/releases.md``).

::

    releases/
      served.json          what is served: the one small file, replaced atomically
      releases/NAME/       one release: release.json, ranking/, retrieval/; read-only
      files/AB/SHA256      each file of all bundles once; releases hold hard links
      status/HOST-PORT.json   what each server serves, and how its last switch went

- ``served.py``: ``served.json``, its fields and its rules;
- ``release.py``: ``release.json``, the record of one release.
"""
