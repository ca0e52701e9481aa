"""Faults in pods, their mounts, and the server's settings."""

from __future__ import annotations

from support.manifests.planting import JOB, LOOP, Fault, first, pod, setting, without

FAULTS = (
    # Pods.
    Fault(
        "a preStop command sleeps longer than the grace period",
        "dev",
        "hooks_end_before_the_pod",
        lambda o: first(o)["lifecycle"].update(preStop={"exec": {"command": ["sh", "-c", "sleep 40"]}}),
    ),
    Fault(
        "two containers have one port",
        "prod",
        "container_ports_are_distinct",
        lambda o: first(o)["ports"].append({"name": "twice", "containerPort": 50051}),
    ),
    Fault(
        "a probe asks a port that nothing serves",
        "prod",
        "probes_ask_a_port_that_is_served",
        lambda o: first(o)["readinessProbe"]["grpc"].update(port=50053),
    ),
    Fault(
        "a gRPC probe by a port's name",
        "prod",
        "probes_ask_a_port_that_is_served",
        lambda o: first(o)["readinessProbe"]["grpc"].update(port="health"),
    ),
    Fault("a server without readiness", "prod", "what_serves_is_probed", lambda o: first(o).pop("readinessProbe")),
    Fault(
        "liveness gives up before readiness",
        "prod",
        "liveness_is_the_last_resort",
        lambda o: first(o)["livenessProbe"].update(periodSeconds=1, failureThreshold=2),
    ),
    Fault(
        "an image of tag latest",
        "prod",
        "images_are_pinned",
        lambda o: first(o).update(image="registry.example:5000/recsys-serve:latest"),
    ),
    Fault(
        "an image without a tag",
        "prod",
        "images_are_pinned",
        lambda o: first(o).update(image="registry.example:5000/recsys-serve"),
    ),
    Fault(
        "no request of memory", "prod", "resources_are_said", lambda o: first(o)["resources"]["requests"].pop("memory")
    ),
    Fault(
        "a limit below the request",
        "prod",
        "limits_cover_requests",
        lambda o: first(o)["resources"]["limits"].update(memory="3000Mi"),
    ),
    Fault(
        "a GPU is requested without its limit",
        "gpu",
        "limits_cover_requests",
        lambda o: first(o, JOB)["resources"]["limits"].pop("nvidia.com/gpu"),
    ),
    Fault(
        "a root file system that can be written",
        "prod",
        "pods_are_restricted",
        lambda o: first(o)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    Fault(
        "a token of the API server",
        "prod",
        "pods_are_restricted",
        lambda o: pod(o, LOOP).pop("automountServiceAccountToken"),
    ),
    Fault("service links", "prod", "service_links_are_off", lambda o: pod(o).pop("enableServiceLinks")),
    Fault(
        "a variable is set twice",
        "prod",
        "variables_are_set_once",
        lambda o: first(o)["env"].append({"name": "RECSYS_WORKERS", "value": "4"}),
    ),
    # Mounts and references.
    Fault(
        "a mount without its volume", "prod", "every_mount_has_a_volume", lambda o: without(pod(o)["volumes"], "tls")
    ),
    Fault(
        "a volume that is not mounted",
        "prod",
        "every_volume_is_mounted",
        lambda o: without(first(o)["volumeMounts"], "redis"),
    ),
    Fault(
        "two mounts at one path",
        "prod",
        "mount_paths_are_distinct",
        lambda o: first(o)["volumeMounts"].append({"name": "tmp", "mountPath": "/secrets/tls"}),
    ),
    Fault(
        "certificates by subPath",
        "prod",
        "followed_files_are_no_sub_path",
        lambda o: next(m for m in first(o)["volumeMounts"] if m["name"] == "tls").update(subPath="tls.crt"),
    ),
    Fault(
        "a ConfigMap that does not exist",
        "prod",
        "what_is_named_is_there",
        lambda o: next(v for v in pod(o, LOOP)["volumes"] if v["name"] == "config")["configMap"].update(name="shop"),
    ),
    Fault(
        "a secret that does not exist",
        "prod",
        "what_is_named_is_there",
        lambda o: next(v for v in pod(o)["volumes"] if v["name"] == "redis")["secret"].update(secretName="redis"),
    ),
    Fault(
        "a claim that does not exist",
        "gpu",
        "what_is_named_is_there",
        lambda o: pod(o, JOB)["volumes"][0]["persistentVolumeClaim"].update(claimName="work"),
    ),
    Fault(
        "a ServiceAccount that does not exist",
        "prod",
        "what_is_named_is_there",
        lambda o: pod(o).update(serviceAccountName="ranker"),
    ),
    Fault(
        "a key that the ConfigMap does not have",
        "prod",
        "keys_are_there",
        lambda o: pod(o, "Deployment/recsys-json")["volumes"][0]["configMap"]["items"][0].update(key="envoy.yml"),
    ),
    Fault(
        "a secret that nothing reads any more",
        "prod",
        "what_is_outside_is_used",
        lambda o: o.pop("ServiceMonitor/recsys-ranker"),
    ),
    Fault("no namespace", "dev", "the_namespace_is_there", lambda o: o.pop("Namespace/recsys-dev")),
    # The server's settings.
    Fault(
        "a variable that the server does not know",
        "prod",
        "the_server_takes_its_environment",
        lambda o: setting(o, "RECSYS_WORKER", "4"),
    ),
    Fault(
        "a value that the server does not take",
        "prod",
        "the_server_takes_its_environment",
        lambda o: setting(o, "RECSYS_DRAIN_TIMEOUT_S", "20s"),
    ),
    Fault(
        "open to others and unsecured",
        "dev",
        "the_server_takes_its_environment",
        lambda o: setting(o, "RECSYS_INSECURE", "0"),
    ),
    Fault(
        "a drain longer than the grace period",
        "prod",
        "the_drain_fits_the_grace_period",
        lambda o: setting(o, "RECSYS_DRAIN_TIMEOUT_S", "25"),
    ),
    Fault(
        "a port that the server does not open",
        "prod",
        "the_server_listens_where_the_pod_says",
        lambda o: setting(o, "RECSYS_METRICS_PORT", "9091"),
    ),
    Fault(
        "a server that listens to itself alone",
        "prod",
        "the_server_listens_where_the_pod_says",
        lambda o: setting(o, "RECSYS_HOST", "127.0.0.1"),
    ),
    Fault(
        "liveness gives up before the watchdog",
        "prod",
        "liveness_waits_for_the_watchdog",
        lambda o: setting(o, "RECSYS_HANG_TIMEOUT_S", "120"),
    ),
    Fault(
        "a setting of a file that is mounted nowhere",
        "prod",
        "files_of_settings_are_mounted",
        lambda o: setting(o, "RECSYS_ACCESS_FILE", "/access/access.toml"),
    ),
)
