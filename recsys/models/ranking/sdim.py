"""SDIM (Cao et al., CIKM 2022, arXiv 2205.10249): two blocks over one history, and what it is compared with.

The *short* block is DIN's target attention over the newest events. The *long* block reads the whole history; in SDIM
it sums the events that share the candidate's hash signatures (``signatures.py``), and ``SdimConfig.long`` swaps it
for another one.

Legend: ``B`` samples, ``E`` events of the batch, ``N`` distinct events, ``D`` key width, ``U`` user width, ``I`` item
width, ``S`` one user's events, ``T`` the short block's, ``C`` candidates, ``G`` signatures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.embeddings.jagged import gather_rows
from recsys.errors import ConfigError
from recsys.models.ranking.attention import ActivationUnit
from recsys.models.ranking.blocks import ActivationName, mlp
from recsys.models.ranking.jagged_events import newest_events
from recsys.models.ranking.long_attention import AttentionBlock, EtaBlock, LongBlock, MeanBlock, SdimBlock, SimHardBlock
from recsys.models.ranking.network import Reads
from recsys.models.ranking.signatures import Signatures, check_signatures
from recsys.models.ranking.widths import Widths

LongName = Literal["sdim", "din", "mean", "sim_hard", "eta", "none"]


@dataclass(frozen=True, kw_only=True)
class SdimConfig:
    """SDIM's hyper-parameters.

    Attributes:
        kind: which model this configures.
        long: what reads the whole history: ``sdim``; ``din``, target attention over all of it; ``mean`` of the
            events; ``sim_hard``, target attention over the events of the candidate's category, the first attribute
            that events and items share (SIM, CIKM 2020); ``eta``, target attention over the ``nearest`` events by
            Hamming distance of their codes (ETA, 2021); ``none``: nothing does.
        signatures: hash signatures of a vector, G.
        bits: of each signature, tau.
        hash_seed: of the random directions.
        nearest: events that ``eta`` reads.
        short: newest events that the short block reads; 0: no short block.
        attention, attention_act, softmax: the activation unit of the short block, and of a long one that has one; see
            ``DinConfig``.
        head: hidden units of the MLP on [user, short interest, long interest, candidate, short * candidate,
            long * candidate, item].
        head_act: its activation: ``dice``, ``prelu`` or ``relu``.
        dropout: in the head, in training.

    Raises:
        ConfigError: a number is out of range, or neither block is left.
    """

    reads: ClassVar[Reads] = "distinct_events"

    kind: Literal["sdim"] = "sdim"
    long: LongName = "sdim"
    signatures: int = 16
    bits: int = 3
    hash_seed: int = 0
    nearest: int = 50
    short: int = 16
    attention: tuple[int, int] = (80, 40)
    attention_act: ActivationName = "prelu"
    softmax: bool = False
    head: tuple[int, ...] = (200, 80)
    head_act: ActivationName = "dice"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_signatures(self.signatures, self.bits, self.hash_seed)
        for name, least in (("nearest", 1), ("short", 0)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"model.{name} is {value}; allowed: {least} or more")
        if self.short == 0 and self.long == "none":
            raise ConfigError("model.short is 0 and model.long 'none': no block reads the history; give one of them")


def make_long_block(widths: Widths, *, config: SdimConfig) -> LongBlock | None:
    """Build the block that ``config.long`` names; None for ``none``.

    Raises:
        ConfigError: ``sim_hard``, and events share no attribute with items.
    """
    if config.long == "none":
        return None
    if config.long == "mean":
        return MeanBlock()
    # What a candidate lacks would be compared with the vector of the unknown id: noise in every sign.
    signatures = Signatures(
        widths.key,
        signatures=config.signatures,
        bits=config.bits,
        seed=config.hash_seed,
        ignored=[widths.key_parts[number] for number in widths.stand_ins],
    )
    if config.long == "sdim":
        return SdimBlock(signatures)
    unit = ActivationUnit(widths.key, hidden=config.attention, act=config.attention_act, softmax=config.softmax)
    if config.long == "din":
        return AttentionBlock(unit)
    if config.long == "eta":
        return EtaBlock(unit, signatures=signatures, nearest=config.nearest)
    shared = [part for number, part in enumerate(widths.key_parts) if number > 0 and number not in widths.stand_ins]
    if not shared:
        raise ConfigError(
            "model.long 'sim_hard' reads the events of the candidate's category, but no attribute of the history is "
            "also one of the item; declare it there too, or choose another model.long"
        )
    return SimHardBlock(unit, category=shared[0])


class Sdim(nn.Module):
    """The network above the embeddings.

    ``user_side`` and ``rank_side`` together equal ``forward`` on one user: they are the two exported graphs. With the
    ``sdim`` block the user side holds the sums of all buckets, so a candidate costs the same whatever the length.
    """

    def __init__(self, widths: Widths, *, config: SdimConfig) -> None:
        super().__init__()
        self.widths = widths
        self.newest = config.short
        self.short: ActivationUnit | None = None
        if config.short:
            self.short = ActivationUnit(
                widths.key, hidden=config.attention, act=config.attention_act, softmax=config.softmax
            )
        self.long: LongBlock | None = make_long_block(widths, config=config)
        blocks = (self.short is not None) + (self.long is not None)
        head_width = widths.user + (2 * blocks + 1) * widths.key + widths.item
        self.head = mlp(head_width, config.head, act=config.head_act, dropout=config.dropout)

    @property
    def side_dimensions(self) -> Mapping[str, Mapping[int, str]]:
        """Names of the user side's tensors in the graphs (no feature's name has a dot); dynamic dimensions."""
        names: dict[str, Mapping[int, str]] = {"side.head_bias": {}}
        if self.short is not None:
            names |= {f"side.short_{name}": {} for name in self.short.side_dimensions}
        if self.long is not None:
            names |= {f"side.long_{name}": dims for name, dims in self.long.side_dimensions.items()}
        return names

    def forward(
        self,
        user_BU: Tensor,
        query_BD: Tensor,
        item_BI: Tensor,
        keys_ND: Tensor,
        offsets: Tensor,
        index_E: Tensor | None = None,
    ) -> Tensor:
        """Logits, [B].

        Args:
            user_BU, query_BD, item_BI: the samples' users, candidates, and other features of these.
            keys_ND: the distinct events.
            offsets: sample b's events are offsets[b]:offsets[b + 1]; [B + 1], int64.
            index_E: which of ``keys_ND`` each event is; None: all differ and stand in order.
        """
        if index_E is None:
            index_E = torch.arange(len(keys_ND), device=keys_ND.device)
        interests = []
        if self.short is not None:
            positions, short_offsets = newest_events(offsets, self.newest)
            interests.append(self.short(query_BD, gather_rows(keys_ND, index_E[positions]), short_offsets))
        if self.long is not None:
            interests.append(self.long(query_BD, keys_ND, index_E, offsets))
        logits_B1: Tensor = self.head(torch.cat([user_BU, *_with_candidate(interests, query_BD), item_BI], dim=1))
        return logits_B1.squeeze(1)

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> tuple[Tensor, ...]:
        """The part of a request that is computed once: tensors in the order of :attr:`side_dimensions`.

        ``present_S`` is 0 for padding, which stands before the events.
        """
        side = self._user_side_without_long(user_1U, keys_SD, present_S)
        if self.long is not None:
            side += self.long.user_side(keys_SD, present_S)
        return tuple(side)

    @property
    def state(self) -> tuple[int, int] | None:
        """Shape of the sums that :meth:`user_side_from` goes on from; None: the long block has no such sums."""
        return self.long.signatures.shape if isinstance(self.long, SdimBlock) else None

    def sums(self, keys_SD: Tensor, present_S: Tensor) -> Tensor:
        """Sums of one user's events, of shape :attr:`state`: additive over any division of the events."""
        assert isinstance(self.long, SdimBlock)
        return self.long.signatures.bucket_sums(keys_SD, present_S)

    def user_side_from(
        self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor, *, sums: Tensor, fresh_S: Tensor
    ) -> tuple[Tensor, ...]:
        """:meth:`user_side` of a user whose older events are given by their sums, and the sums of all.

        Args:
            user_1U: the user.
            keys_SD, present_S: newest events, at least those that the short block reads.
            sums: :meth:`sums` of the events that are not fresh, whether or not they are among ``keys_SD``.
            fresh_S: 1 for each of ``keys_SD`` that ``sums`` does not hold, else 0, as for padding.
        """
        assert isinstance(self.long, SdimBlock)
        side = self._user_side_without_long(user_1U, keys_SD, present_S)
        sums = sums + self.sums(keys_SD, fresh_S)
        return (*side, *self.long.side_of(sums), sums)

    def _user_side_without_long(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> list[Tensor]:
        of_user = self._head_first().weight[:, : self.widths.user]
        side = [F.linear(user_1U, of_user, self._head_first().bias).squeeze(0)]
        if self.short is not None:
            # Padded in front, so that a graph's shapes do not depend on the length of the history.
            keys_TD = F.pad(keys_SD, (0, 0, self.newest, 0))[-self.newest :]
            present_T = F.pad(present_S, (self.newest, 0))[-self.newest :]
            side += self.short.user_side(keys_TD, present_T)
        return side

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        """Logits of C candidates, [C], given the tensors of :meth:`user_side`."""
        head_bias, *rest = side
        interests = []
        if self.short is not None:
            count = len(self.short.side_dimensions)
            interests.append(self.short.attend(query_CD, rest[:count]))
            rest = rest[count:]
        if self.long is not None:
            interests.append(self.long.rank_side(rest, query_CD))
        of_rest = self._head_first().weight[:, self.widths.user :]
        x = torch.cat([*_with_candidate(interests, query_CD), item_CI], dim=1)
        logits_C1: Tensor = self.head[1:](torch.addmm(head_bias, x, of_rest.t()))
        return logits_C1.squeeze(1)

    def _head_first(self) -> nn.Linear:
        first = self.head[0]
        assert isinstance(first, nn.Linear)
        return first


def _with_candidate(interests: Sequence[Tensor], query_BD: Tensor) -> list[Tensor]:
    """The interests, the candidate, and the products of each interest with it."""
    return [*interests, query_BD, *(interest_BD * query_BD for interest_BD in interests)]
