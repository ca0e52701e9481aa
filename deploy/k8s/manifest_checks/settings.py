"""Settings: the environment of ``recsys serve`` in the manifests, by the server's own parser.

The one file here that knows recsys. A pod whose variable is misspelt starts, with the default; one whose value is wrong
ends at the start, over and over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from manifest_checks.manifests import Manifests, Object, Problem, Rule, Workload
from manifest_checks.pods import grace, pre_stop_s
from recsys.errors import RecsysError
from recsys.serving.process.ending import END_MARGIN_S
from recsys.serving.process.exposure import check_exposure
from recsys.serving.settings import Settings, read_settings, settings_table

_VARIABLES = frozenset(row.variable for row in settings_table())
_PLACEHOLDER_URL = "redis://in-a-file:6379"


def the_server_takes_its_environment(manifests: Manifests) -> Iterator[Problem]:
    """A variable that the server does not know is ignored; a value that it does not take ends it at the start."""
    for workload, container in _servers(manifests):
        variables = _variables(container)
        for name in sorted(name for name in variables if _is_ours(name) and name not in _VARIABLES):
            yield workload.where, f"{name} is no setting of the server"
        try:
            settings = _settings(container)
            check_exposure(settings)
        except RecsysError as error:
            yield workload.where, str(error)


def the_drain_fits_the_grace_period(manifests: Manifests) -> Iterator[Problem]:
    """A drain that is not over when the pod is killed: calls that run are lost at each rollout."""
    for workload, container in _servers(manifests):
        if settings := _read(container):
            needed_s = pre_stop_s(container) + settings.drain_timeout_s + END_MARGIN_S
            if needed_s > grace(workload.pod):
                yield (
                    workload.where,
                    f"preStop {pre_stop_s(container):g} s, drain {settings.drain_timeout_s:g} s and {END_MARGIN_S:g} s "
                    f"to end are more than the grace period, {grace(workload.pod)} s",
                )


def the_server_listens_where_the_pod_says(manifests: Manifests) -> Iterator[Problem]:
    """Ports of the pod that the server does not open, or listens to on another number."""
    for workload, container in _servers(manifests):
        if settings := _read(container):
            declared = {p["name"]: p["containerPort"] for p in container.get("ports", ())}
            opened = {"grpc": settings.port, "health": settings.health_port, "metrics": settings.metrics_port}
            for name, port in declared.items():
                if opened.get(name) != port:
                    yield workload.where, f"port {name} is {port}, and the server has {opened.get(name)} for it"
            if settings.host not in ("0.0.0.0", "[::]"):
                yield workload.where, f"the server listens on {settings.host}, where nobody outside the pod reaches it"


def liveness_waits_for_the_watchdog(manifests: Manifests) -> Iterator[Problem]:
    """A liveness probe that gives up before the supervisor has replaced a hung worker: all go for the sake of one."""
    for workload, container in _servers(manifests):
        probe = container.get("livenessProbe")
        if (settings := _read(container)) and probe:
            patience_s = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
            if patience_s <= settings.hang_timeout_s:
                yield (
                    workload.where,
                    f"liveness gives up after {patience_s} s, the watchdog after {settings.hang_timeout_s:g} s",
                )


def files_of_settings_are_mounted(manifests: Manifests) -> Iterator[Problem]:
    """A setting that names a file or folder where nothing is mounted: it is not there."""
    for workload, container in _servers(manifests):
        mounts = [m["mountPath"] for m in container.get("volumeMounts", ())]
        for name, value in _variables(container).items():
            if value.startswith("/") and not any(value == m or value.startswith(f"{m.rstrip('/')}/") for m in mounts):
                yield workload.where, f"{name} is {value}, and nothing is mounted there"


def _servers(manifests: Manifests) -> Iterator[tuple[Workload, Object]]:
    for workload in manifests.workloads():
        for container in workload.containers:
            if list(container.get("args", ()))[:1] == ["serve"]:
                yield workload, container


def _variables(container: Object) -> Mapping[str, str]:
    return {v["name"]: str(v["value"]) for v in container.get("env", ()) if "value" in v}


def _is_ours(name: str) -> bool:
    return name.startswith("RECSYS_") or name.startswith("REDIS_URL")


def _settings(container: Object) -> Settings:
    variables = dict(_variables(container))
    if variables.pop("REDIS_URL_FILE", None) is not None:
        # The file is in the cluster; what is in it is not ours to know.
        variables["REDIS_URL"] = _PLACEHOLDER_URL
    log = logging.getLogger("recsys.serving")
    before, log.disabled = log.disabled, True  # unknown variables are findings of ours
    try:
        return read_settings(variables)
    finally:
        log.disabled = before


def _read(container: Object) -> Settings | None:
    try:
        return _settings(container)
    except RecsysError:
        return None


RULES: tuple[Rule, ...] = (
    the_server_takes_its_environment,
    the_drain_fits_the_grace_period,
    the_server_listens_where_the_pod_says,
    liveness_waits_for_the_watchdog,
    files_of_settings_are_mounted,
)
