"""The two sides above the embedding tables.

The item's side maps id and attributes to a vector of length 1; an item of a history is read by that same vector, so
that one which is known by its attributes alone can stand in it. The user's side reads the history (``attention.py``)
and the user's features, and gives one or several interests, of length 1 each. The score of an item is its largest
product with an interest.

A long history is read in two parts: the newest events by attention, those before them by their hash signatures (SDIM:
Cao et al., CIKM 2022), so that it costs a sum over events, and not attention between all of them.

Legend: ``A`` items, ``B`` sequences, ``L`` events of each, ``S`` events of one user, ``O`` older ones, ``K`` hash
buckets, ``T`` places of sequences, ``Q`` interests, ``D`` width, ``I``, ``W``, ``U`` columns of an id, of attributes,
of a user's features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.ranking.long_attention import SdimBlock
from recsys.models.ranking.signatures import Signatures
from recsys.models.retrieval.two_tower.attention import Block, gap_buckets
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import TowerWidths


class TwoTowerNet(nn.Module):
    """Both sides.

    Args:
        widths: of what is looked up.
        config: the hyper-parameters.
    """

    def __init__(self, widths: TowerWidths, *, config: TwoTowerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.long: SdimBlock | None = None
        if config.long_history:
            signatures = Signatures(dim, signatures=config.signatures, bits=config.bits, seed=config.hash_seed)
            self.long = SdimBlock(signatures)
        self.dropout, self.interests, self.scale = config.dropout, config.interests, dim**0.5
        self.time_gaps = config.time_gaps
        self.id = nn.Identity() if widths.item_id == dim else nn.Linear(widths.item_id, dim, bias=False)
        self.attributes = nn.Linear(widths.item, dim) if widths.item else None
        self.event = nn.Linear(widths.event, dim) if widths.event else None
        self.blocks = nn.ModuleList(
            Block(dim, heads=config.heads, window=config.window, time_gaps=config.time_gaps, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.older = nn.Linear(dim, dim, bias=False) if config.long_history else None
        self.last = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.interests * dim)
        self.of_user = nn.Linear(widths.user, config.interests * dim, bias=False) if widths.user else None
        with torch.no_grad():  # begin with what was read; interests differ from each other a little
            spread = self.head.weight.view(config.interests, dim, dim) * (0.0 if config.interests == 1 else 1.0)
            self.head.weight.copy_((torch.eye(dim) + spread).flatten(0, 1))

    def item(self, id_AI: Tensor, attributes_AW: Tensor) -> Tensor:
        """Vectors of items, [A, D], of length 1; zero for one whose id and attributes say nothing."""
        vector_AD: Tensor = self.id(id_AI)
        if self.attributes is not None:
            vector_AD = vector_AD + self.attributes(attributes_AW)
        return F.normalize(vector_AD, dim=1)

    def buckets(self, older_OD: Tensor) -> Tensor:
        """Directions of the sums of older events' items by hash bucket, [K, D]: all that is read of these events."""
        assert self.long is not None
        length_O = torch.linalg.vector_norm(older_OD, dim=1).clamp_min(1e-12)
        return self.long.user_side(older_OD, 1.0 / length_O)[0]

    def read(
        self,
        items_BLD: Tensor,
        events_BLW: Tensor | None,
        time_ms_BL: Tensor | None,
        buckets_BKD: Tensor | None = None,
    ) -> Tensor:
        """Read each event with those before it, [B, L, D].

        Args:
            items_BLD: vectors of the events' items, of length 1 in training, else of any: directions are read; what
                stands behind the last event of a sequence plays no part.
            events_BLW: vectors of the events' attributes; None: they have none.
            time_ms_BL: their times, int64; None: not known, as if there were no time between events.
            buckets_BKD: of the events before each sequence (:meth:`buckets`), zeros for none; None: none has any.
        """
        x_BLD = (items_BLD if self.training else F.normalize(items_BLD, dim=2)) * self.scale
        if self.long is not None and self.older is not None and buckets_BKD is not None:
            # By the item's vector, which is the same bits in a bundle: a computed one could fall into another bucket.
            members_BLK = self.long.signatures.members(items_BLD.flatten(0, 1)).view(*items_BLD.shape[:2], -1)
            x_BLD = x_BLD + self.older(members_BLK @ buckets_BKD) * self.scale
        if self.event is not None and events_BLW is not None:
            x_BLD = x_BLD + self.event(events_BLW)
        x_BLD = F.dropout(x_BLD, self.dropout, self.training)
        bucket_BLL = gap_buckets(time_ms_BL) if self.time_gaps and time_ms_BL is not None else None
        for block in self.blocks:
            x_BLD = block(x_BLD, bucket_BLL)
        read_BLD: Tensor = self.last(x_BLD)
        return read_BLD

    def interests_of(self, read_TD: Tensor, user_TU: Tensor | None) -> Tensor:
        """Interests at some places of sequences, [T, Q, D], of length 1.

        Args:
            read_TD: of :meth:`read`.
            user_TU: vectors of the users' features; None: they have none.
        """
        interests = self.head(read_TD)
        if self.of_user is not None and user_TU is not None:
            interests = interests + self.of_user(user_TU)
        return F.normalize(interests.view(len(read_TD), self.interests, -1), dim=2)

    def user(
        self,
        items_SD: Tensor,
        events_SW: Tensor | None,
        time_ms_S: Tensor | None,
        user_1U: Tensor | None,
        older_OD: Tensor | None = None,
    ) -> Tensor:
        """Interests of one user after the last event, [Q, D]; arguments as of :meth:`read` and :meth:`interests_of`.

        At least one event, at most ``window``; ``older_OD``: vectors of the items of the events before them. Vectors
        may be of any length.
        """
        read_1SD = self.read(
            items_SD[None],
            None if events_SW is None else events_SW[None],
            None if time_ms_S is None else time_ms_S[None],
            None if older_OD is None else self.buckets(older_OD)[None],
        )
        return self.interests_of(read_1SD[:, -1], user_1U)[0]
