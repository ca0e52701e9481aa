"""The contract of every FeatureStore: import all of this into a module that has a ``store`` fixture.

The store must be empty and made for ``SHOP``.

- ``shop.py``: the FeatureSet, and its histories by definition;
- ``histories.py``: what is written to a history; ``reading.py``: what is read of it, rows, texts;
- ``changes.py``: which items were written.
"""

from contracts.feature_store_contract.changes import *  # noqa: F403
from contracts.feature_store_contract.histories import *  # noqa: F403
from contracts.feature_store_contract.reading import *  # noqa: F403
