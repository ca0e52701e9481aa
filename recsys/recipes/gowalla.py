"""Models that rank all items: Gowalla by the protocol of NGCF and LightGCN, MovieLens-1M by that of LCFN.

Settings were chosen by recall@20 on a held-out tenth of each user's training pairs of Gowalla (the published
validation part of MovieLens); the recipes of Gowalla then train on all of the training pairs for the number of epochs
found (``data.validation_share=0.1 train.patience=5`` gives the runs that chose). MovieLens trains on its training part
only, as UltraGCN does, and the test masks its training pairs only.
"""

from __future__ import annotations

from recsys.models.retrieval.lightgcn import LightGcnConfig
from recsys.models.retrieval.linear import LinearConfig
from recsys.models.retrieval.mf import MfConfig
from recsys.models.retrieval.ngcf import NgcfConfig
from recsys.training.retrieval.config import InteractionsConfig, RetrievalRunConfig, RetrievalTrainConfig

_GOWALLA = InteractionsConfig(dataset="gowalla", validation_share=0.0)
_LCFN = InteractionsConfig(dataset="movielens_lcfn", mask_validation=False)


def linear_gowalla() -> RetrievalRunConfig:
    """Linear filtering in closed form on Gowalla, with settings picked by hand on 1,000 users of a held-out tenth."""
    return RetrievalRunConfig(
        recipe="linear_gowalla",
        data=_GOWALLA,
        model=LinearConfig(
            ranks=(448,),
            user_degrees=(0.3,),
            degrees=(0.35,),
            low_pass=(0.05,),
            sharpen=(0.8,),
            neighbours=(512,),
            half_life_events=(0.0,),
            half_life_days=(0.0,),
        ),
        train=RetrievalTrainConfig(patience=0),
    )


def mf_gowalla() -> RetrievalRunConfig:
    """Matrix factorisation with BPR on Gowalla."""
    return RetrievalRunConfig(
        recipe="mf_gowalla",
        data=_GOWALLA,
        model=MfConfig(),
        train=RetrievalTrainConfig(
            epochs=40,
            batch_size=25_000,
            learning_rate=0.02,
            negatives=32,
            regularization=1e-2,
            schedule="cosine",
            patience=0,
        ),
    )


def lightgcn_gowalla() -> RetrievalRunConfig:
    """LightGCN on Gowalla."""
    return RetrievalRunConfig(
        recipe="lightgcn_gowalla",
        data=_GOWALLA,
        model=LightGcnConfig(),
        train=RetrievalTrainConfig(
            epochs=35,
            learning_rate=0.03,
            negatives=32,
            regularization=1e-3,
            schedule="cosine",
            checkpoint_epochs=5,
            patience=0,
        ),
    )


def ngcf_gowalla() -> RetrievalRunConfig:
    """NGCF on Gowalla, by the paper's equations."""
    return RetrievalRunConfig(
        recipe="ngcf_gowalla",
        data=_GOWALLA,
        model=NgcfConfig(),
        train=RetrievalTrainConfig(
            epochs=25,
            learning_rate=0.01,
            negatives=32,
            regularization=1e-4,
            schedule="cosine",
            checkpoint_epochs=5,
            patience=0,
        ),
    )


def ngcf_code_gowalla() -> RetrievalRunConfig:
    """NGCF on Gowalla, as the authors' code computes it."""
    return RetrievalRunConfig(
        recipe="ngcf_code_gowalla",
        data=_GOWALLA,
        model=NgcfConfig(variant="code"),
        train=RetrievalTrainConfig(
            epochs=25,
            learning_rate=0.01,
            negatives=32,
            regularization=1e-4,
            schedule="cosine",
            checkpoint_epochs=5,
            patience=0,
        ),
    )


def lightgcn_lcfn() -> RetrievalRunConfig:
    """LightGCN on MovieLens-1M, the split of LCFN and UltraGCN."""
    return RetrievalRunConfig(
        recipe="lightgcn_lcfn",
        data=_LCFN,
        model=LightGcnConfig(layers=2),
        train=RetrievalTrainConfig(
            epochs=40, learning_rate=0.02, negatives=8, regularization=1e-3, validate_every=5, patience=4
        ),
    )


def ngcf_lcfn() -> RetrievalRunConfig:
    """NGCF on MovieLens-1M, the split of LCFN and UltraGCN, as the authors' code computes it."""
    return RetrievalRunConfig(
        recipe="ngcf_lcfn",
        data=_LCFN,
        model=NgcfConfig(variant="code", layers=2),
        train=RetrievalTrainConfig(
            epochs=40, learning_rate=0.01, negatives=8, regularization=1e-4, validate_every=5, patience=4
        ),
    )
