"""Assertions of the shared contracts show their values."""

import pytest

pytest.register_assert_rewrite("contracts.row_map_contract")
