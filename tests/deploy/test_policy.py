"""Others' tools find nothing in our overlays that is not explained, and would find what is planted."""

from __future__ import annotations

import json
from pathlib import Path

import policy
import pytest
import yaml
from support.manifests.in_scaling import FAULTS_OF_AN_API_SERVER
from support.manifests.overlays import OPTIONS, OVERLAYS, rendered
from support.manifests.planting import Fault, first, planted

MISSING = "checkov and kubernetes-validate are not installed: make policy"


def as_yaml(fault: Fault) -> str:
    """An overlay with a fault."""
    return str(yaml.safe_dump_all(json.loads(json.dumps(list(planted(fault).values())))))


def test_every_exception_gives_its_reason(tmp_path: Path) -> None:
    assert all(len(exception.why) > 20 for exception in policy.read_exceptions())
    silent = tmp_path / "exceptions.yaml"
    silent.write_text("- {check: CKV_K8S_1, objects: ['*']}\n")
    with pytest.raises(ValueError, match=r"CKV_K8S_1 gives no reason"):
        policy.read_exceptions(silent)


def test_an_exception_is_about_its_check_and_its_objects_alone() -> None:
    exception = policy.Explained("CKV_K8S_11", ("Deployment/recsys-*",), "because")
    assert exception.covers("CKV_K8S_11", "Deployment/recsys-ranker")
    assert not exception.covers("CKV_K8S_11", "CronJob/recsys-loop")
    assert not exception.covers("CKV_K8S_1", "Deployment/recsys-ranker")


@pytest.fixture
def installed() -> None:
    """The tools."""
    if policy.tools() is None:
        pytest.skip(MISSING)


@pytest.mark.prove
@pytest.mark.usefixtures("installed")
def test_nothing_is_found_that_is_not_explained() -> None:
    found = policy.unexplained({name: rendered(name) for name in (*OVERLAYS, *OPTIONS)}, policy.read_exceptions())
    assert found == []


@pytest.mark.prove
@pytest.mark.usefixtures("installed")
def test_a_root_container_an_unknown_field_and_an_idle_exception_are_found() -> None:
    rights = Fault(
        "rights", "gpu", "", lambda o: first(o, "Job/recsys-train").update(securityContext={"privileged": True})
    )
    field = Fault("field", "gpu", "", lambda o: o["Job/recsys-train"]["spec"].update(completion=2))
    idle = policy.Explained("CKV_K8S_99", ("*",), "because")
    overlays = {"rights": as_yaml(rights), "field": as_yaml(field)}
    found = "\n".join(policy.unexplained(overlays, [*policy.read_exceptions(), idle]))
    assert "rights: Job/recsys-train: Container should not be privileged (CKV_K8S_16)" in found
    assert all(f"field: Kubernetes {version}: " in found for version in policy.VERSIONS)
    assert "CKV_K8S_99 explains nothing any more" in found


@pytest.mark.prove
@pytest.mark.usefixtures("installed")
def test_schemas_see_none_of_what_an_api_server_refuses() -> None:
    """So the rules of our own are needed; if this fails, schemas have learnt something."""
    assert [policy.schema_problems(as_yaml(fault)) for fault in FAULTS_OF_AN_API_SERVER] == [[]] * 4
