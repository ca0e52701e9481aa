"""Volumes, and where they are mounted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from manifest_checks.manifests import Manifests, Problem, Rule, Workload


def every_mount_has_a_volume(manifests: Manifests) -> Iterator[Problem]:
    """A mount of a volume that is not there: the API server refuses the pod, long after the Deployment was taken."""
    for workload in manifests.workloads():
        volumes = _volumes(workload)
        for container in workload.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield (
                        workload.where,
                        f"{container['name']} mounts {mount['name']!r}; volumes: {', '.join(sorted(volumes))}",
                    )


def every_volume_is_mounted(manifests: Manifests) -> Iterator[Problem]:
    """A volume that no container mounts: a file that the program looks for is not there."""
    for workload in manifests.workloads():
        mounted = {m["name"] for c in workload.containers for m in c.get("volumeMounts", ())}
        for name in sorted(_volumes(workload) - mounted):
            yield workload.where, f"volume {name!r} is mounted by no container"


def mount_paths_are_distinct(manifests: Manifests) -> Iterator[Problem]:
    """Two mounts at one path: one hides the other."""
    for workload in manifests.workloads():
        for container in workload.containers:
            paths = Counter(m["mountPath"].rstrip("/") for m in container.get("volumeMounts", ()))
            for path, times in paths.items():
                if times > 1:
                    yield workload.where, f"{container['name']} mounts {times} volumes at {path}"


def followed_files_are_no_sub_path(manifests: Manifests) -> Iterator[Problem]:
    """A subPath of a secret or ConfigMap: kubelet never renews it, and the old certificate ends in the pod."""
    for workload in manifests.workloads():
        renewed = {v["name"] for v in workload.pod.get("volumes", ()) if "secret" in v or "configMap" in v}
        for container in workload.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] in renewed and mount.get("subPath"):
                    yield (
                        workload.where,
                        f"{mount['name']!r} is mounted by subPath {mount['subPath']!r}; mount its folder",
                    )


def _volumes(workload: Workload) -> set[str]:
    claims = workload.owner["spec"].get("volumeClaimTemplates", ())
    return {v["name"] for v in workload.pod.get("volumes", ())} | {c["metadata"]["name"] for c in claims}


RULES: tuple[Rule, ...] = (
    every_mount_has_a_volume,
    every_volume_is_mounted,
    mount_paths_are_distinct,
    followed_files_are_no_sub_path,
)
