"""Parts of the benchmark of deployments. None is run by itself.

- ``manifests.py``: planted faults of Kubernetes manifests, and others' tools on ours.
- ``images.py``: size of the serving image, and the time from its start to SERVING.
- ``replicas.py``: servers that join others behind one name, and one that goes.
- ``hosts.py``: training, Redis and rankers over several hosts, of which one is lost.
"""
