"""Our Kubernetes manifests for tests, and faults in them that schemas do not see.

- ``overlays.py``: the overlays, rendered and checked. ``planting.py``: a fault, and the parts that it is planted in.
- ``in_pods.py``, ``in_network.py``, ``in_scaling.py``: the faults. Each names the rule that finds it.
"""

from support.manifests import in_network, in_pods, in_scaling

FAULTS = (*in_scaling.FAULTS, *in_pods.FAULTS, *in_network.FAULTS)
