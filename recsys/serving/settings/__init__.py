"""Settings of the server. Read once at start, from the environment and the command line.

Every setting is one field of :class:`Settings`; its environment variable, type, range and meaning are written next to
it, and :func:`settings_table` makes the documentation from them.

- ``settings.py``: all of them, read, listed.
- ``releases.py``, ``tables.py``, ``tls.py``, ``observing.py``, ``receiving.py``, ``access.py``: groups of them.
- ``field.py``: one.
- ``secret_file.py``: a secret in a file of its own; ``items_shard.py``: a part of the items.

To add a setting: a field of the group that it belongs to, or of a new one, and `python scripts/generate_docs.py`.
"""

from recsys.serving.settings.settings import (
    SettingDoc,
    Settings,
    bundle_folder,
    read_settings,
    settings_lines,
    settings_table,
)

__all__ = ["SettingDoc", "Settings", "bundle_folder", "read_settings", "settings_lines", "settings_table"]
