"""Faults that schemas do not see: each is found by the rule that it is of, and our manifests have none."""

from __future__ import annotations

import pytest
from manifest_checks import RULES
from manifest_checks import settings as server_settings
from support.manifests import FAULTS
from support.manifests.overlays import OPTIONS, OVERLAYS, checked, rendered
from support.manifests.planting import Fault, findings


@pytest.mark.parametrize("name", [*OVERLAYS, *OPTIONS])
def test_our_manifests_have_no_fault(name: str) -> None:
    assert checked(rendered(name), name) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_planted_fault_is_found_by_its_rule(fault: Fault) -> None:
    found = findings(fault)
    assert fault.rule in {finding.rule for finding in found}, found


def test_every_rule_has_a_fault_that_it_finds() -> None:
    rules = {rule.__name__ for rule in (*RULES, *server_settings.RULES)}
    assert rules == {fault.rule for fault in FAULTS}
