"""Faults in services, policies and scraping."""

from __future__ import annotations

from support.manifests.planting import RANKER, Fault, policy, service

FAULTS = (
    # Network.
    Fault(
        "a Service of pods that do not exist",
        "prod",
        "services_reach_pods",
        lambda o: service(o).update(selector={"app.kubernetes.io/name": "ranker"}),
    ),
    Fault(
        "a Service's port that no container has",
        "prod",
        "services_reach_pods",
        lambda o: service(o)["ports"][0].update(targetPort="rpc"),
    ),
    Fault(
        "a Service of two programs",
        "dev",
        "services_keep_to_one_workload",
        lambda o: service(o).update(selector={"app.kubernetes.io/part-of": "recsys"}),
    ),
    Fault(
        "a headless Service with a port of its own",
        "prod",
        "headless_ports_are_the_pods_own",
        lambda o: service(o)["ports"][0].update(port=443),
    ),
    Fault(
        "gRPC that an autoscaler scales behind an address of the cluster",
        "prod",
        "grpc_is_behind_a_headless_service",
        lambda o: service(o).pop("clusterIP"),
    ),
    Fault(
        "a ServiceMonitor of a port that no Service has",
        "prod",
        "monitors_find_their_port",
        lambda o: o["ServiceMonitor/recsys-ranker"]["spec"]["endpoints"][0].update(port="http-metrics"),
    ),
    Fault(
        "a ServiceMonitor of labels that no Service has",
        "prod",
        "monitors_find_their_port",
        lambda o: o["Service/recsys-ranker"]["metadata"]["labels"].update({"app.kubernetes.io/name": "ranker"}),
    ),
    Fault(
        "a policy of pods that do not exist",
        "prod",
        "policies_select_pods",
        lambda o: policy(o).update(podSelector={"matchLabels": {"app": "ranker"}}),
    ),
    Fault("a policy that lets nobody in", "prod", "policies_let_callers_in", lambda o: policy(o).pop("ingress")),
    Fault(
        "a policy that keeps kubelet from the probes",
        "prod",
        "policies_let_probes_in",
        lambda o: policy(o)["ingress"].pop(1),
    ),
    Fault(
        "a policy that keeps Prometheus out",
        "prod",
        "policies_let_prometheus_in",
        lambda o: policy(o)["ingress"][2].update({"from": [{"podSelector": {}}]}),
    ),
    Fault(
        "a policy that keeps the rankers from Redis",
        "dev",
        "declared_calls_go_through",
        lambda o: policy(o)["egress"].pop(1),
    ),
    Fault(
        "a policy of Redis that does not know the rankers",
        "dev",
        "declared_calls_go_through",
        lambda o: policy(o, "recsys-redis")["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0].update(
            values=["recsys-ingester", "recsys-loop"]
        ),
    ),
    Fault(
        "a policy that lets nobody look up names",
        "prod",
        "declared_calls_go_through",
        lambda o: policy(o)["egress"].pop(0),
    ),
    Fault(
        "a caller without the label that the rankers' policy asks for",
        "prod",
        "declared_calls_go_through",
        lambda o: o["Deployment/recsys-json"]["spec"]["template"]["metadata"]["labels"].pop("recsys/may-call-rankers"),
    ),
    Fault(
        "a policy that lets out who calls nobody",
        "prod",
        "callers_are_declared",
        lambda o: o[RANKER]["spec"]["template"]["metadata"].pop("annotations"),
    ),
)
