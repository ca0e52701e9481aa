"""SimilarItems: the items whose vectors are nearest to those of seeds, by the graph ``similar`` of a bundle.

Shapes use ``N`` seeds, ``K`` items found, ``X`` items to leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.bundle import SIMILAR_OUTPUTS, Bundle
from recsys.errors import BundleError, ModelError
from recsys.features.hashing import MISSING
from recsys.operators import Operators
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.inference.graphs import load_graph
from recsys.serving.inference.retrieval_session import RetrievalSession
from recsys.serving.inference.signature import check_similar

_NOTHING = np.array([MISSING], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Items near to seeds.

    Attributes:
        items: their keys, nearest first, distinct, none a seed; int64, [K].
        scores: how near, higher is nearer; float32, [K].
        known: which of the seeds something is known of; bool, [N].
    """

    items: Int64Array
    scores: Float32Array
    known: BoolArray


class SimilarItems:
    """Exact search by the cosine, in the mean over the known seeds. Safe to use from several threads.

    Args:
        session: of the same bundle.
        graph: ``similar``.
    """

    def __init__(self, session: RetrievalSession, graph: ort.InferenceSession) -> None:
        self._session = session
        self._graph = graph

    def find(
        self,
        seeds: Int64Array,
        k: int,
        *,
        left_out: Int64Array = _NOTHING,
        added: AddedItems | None = None,
        allowed: Allowed | None = None,
    ) -> Neighbours:
        """Find the k items nearest to the seeds; none where nothing is known of any seed.

        Args:
            seeds: keys, distinct, [N], N >= 1; those that the bundle has not are looked for among ``added``.
            k: items to find, 1 or more.
            left_out: keys of further items to leave out, [X]; unknown ones do no harm.
            added: items that take part beside those of the bundle, where it has a graph ``item``.
            allowed: items that may be found, of the bundle and of ``added``; seeds may be others. None: all.

        Raises:
            ModelError: a cosine is not finite, or the bundle's tables were changed; names the release.
        """
        given = {
            "seeds": seeds,
            "seen": left_out if len(left_out) else _NOTHING,
            "k": np.array(k, dtype=np.int64),
            **self._session.search_inputs(added, allowed),
        }
        with self._session.guard.reading():
            items, scores, known = self._graph.run(list(SIMILAR_OUTPUTS), given)
        known_N = known > 0
        if not known_N.any():
            return Neighbours(items[:0], scores[:0], known_N)
        if not np.isfinite(scores).all():
            raise ModelError(
                f"retrieval model {self._session.model!r} of {self._session.guard.label} gave no finite cosine for "
                f"{np.count_nonzero(~np.isfinite(scores))} items at least: go back to another release"
            )
        return Neighbours(items, scores, known_N)


def open_similar(
    bundle: Bundle,
    session: RetrievalSession,
    *,
    intra_op_threads: int = 1,
    operators: Operators = "auto",
    low_priority: bool = False,
) -> SimilarItems | None:
    """Load the graph ``similar`` of a bundle, and run it once; None if the bundle was exported before there was one.

    Args:
        bundle: whose it is.
        session: of the bundle.
        intra_op_threads: threads inside one run.
        operators: who computes the graph's functions.
        low_priority: leave the core to calls that are answered meanwhile.

    Raises:
        BundleError: the graph does not load or run, or is not as the manifest and ``docs/specs/bundle.md`` say.
        ModelError: a table was changed or could not be read meanwhile.
    """
    if "similar" not in bundle.manifest.graphs:
        return None
    load = partial(load_graph, intra_op_threads=intra_op_threads, operators=operators, low_priority=low_priority)
    with session.guard.loading():
        graph = load(bundle, "similar")
        check_similar(bundle, graph)
        found = SimilarItems(session, graph)
        try:
            found.find(_NOTHING, 1)
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's own exception classes are not public
            raise BundleError(f"{bundle.path}: the graph 'similar' does not run: {error}") from error
    return found
