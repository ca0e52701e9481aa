"""Every model's exported halves are the model, and nothing is computed per candidate that could be once per request."""

import onnx
import pytest
from support.exported_models import MODELS, exported

from recsys.bundle import open_bundle
from recsys.export.rewrites.simplify import independent_of
from recsys.serving.inference.ranking_session import open_ranking_session


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_halves_are_the_model_that_was_not_split(name: str) -> None:
    """The certificate compares them on every sort of request; here is that it covers every model, closely."""
    _, _, folder, manifest = exported(name)
    assert manifest.certificate.max_abs_logit_difference <= 2e-5
    assert manifest.certificate.candidates > manifest.certificate.requests > 0
    open_ranking_session(open_bundle(folder))


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_computed_per_candidate_that_depends_on_none(name: str) -> None:
    _, _, folder, manifest = exported(name)
    rank = onnx.load(folder / "rank.onnx", load_external_data=False).graph
    candidates = set(manifest.graphs["rank"].inputs) - set(manifest.graphs["user"].outputs)
    assert candidates
    left = independent_of(rank, candidates)
    assert not left, [(node.op_type, list(node.output)) for node in left]
    constant = {tensor.name for tensor in rank.initializer}
    assert not [node.op_type for node in rank.node if node.input and constant.issuperset(node.input)]
