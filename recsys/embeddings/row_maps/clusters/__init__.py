"""Ids that share neighbours, found in the graph of interactions: what GraphHash makes rows of.

Two id features that occur together (users and items, queries and clicked products) are the left and right side of a
bipartite graph. Modularity clustering (Louvain, Blondel et al. 2008; by scikit-network, ADR 11) cuts it into
*communities* with ids of both sides. A community's left ids are one left *cluster* and share a row of the left
table; likewise right (GraphHash, WWW 2025). The rest is what rows need to be used for long: a number of rows to
hit, numbers that survive a new clustering, and rows for ids that came later. numpy in, numpy out.

::

    indices.py       keys to indices
    bipartite.py     the graph
    modularity.py    its clusters
    to_rows.py       as many as a table has rows
    matching.py      in the numbers of an earlier clustering
    unseen.py        of ids that came later
"""

from recsys.embeddings.row_maps.clusters.indices import index_keys
from recsys.embeddings.row_maps.clusters.matching import Matched, match_labels
from recsys.embeddings.row_maps.clusters.modularity import NO_CLUSTER, Clusters, Side, cluster, cluster_again
from recsys.embeddings.row_maps.clusters.to_rows import MAX_TRIES, TOLERANCE, Try, cluster_to_rows
from recsys.embeddings.row_maps.clusters.unseen import assign_unseen

__all__ = [
    "MAX_TRIES",
    "NO_CLUSTER",
    "TOLERANCE",
    "Clusters",
    "Matched",
    "Side",
    "Try",
    "assign_unseen",
    "cluster",
    "cluster_again",
    "cluster_to_rows",
    "index_keys",
    "match_labels",
]
