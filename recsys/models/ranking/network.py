"""The promises of a ranking model: of its configuration, and of its network above the embeddings.

Legend: ``B`` samples, ``E`` events of the batch, ``U``, ``D`` and ``I`` widths of the user, of the candidate's id and
history attributes, and of the item's other features; ``S`` one user's recent events, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from recsys.models.ranking.widths import Widths

Reads = Literal["nothing", "events", "distinct_events"]
"""The part of the histories that a network is given in training: ``events``, one vector per event of the batch; or, for
long histories, ``distinct_events``, one per different event, and which of them each event is. With ``nothing`` a
FeatureSet may do without a history; one that has it is read without it."""


class RankingConfig(Protocol):
    """Hyper-parameters: a frozen dataclass whose defaults are a model, and whose fields are settings ``model.*``.

    The run checks those named ``head``, ``attention`` and ``dropout``; the others are checked in ``__post_init__``.
    """

    @property
    def kind(self) -> str:
        """The model's name, a field; its annotation is the ``Literal`` of it."""
        ...

    @property
    def reads(self) -> Reads:
        """The part of the histories that the network reads; no field."""
        ...


class RankingNet(Protocol):
    """A torch module; ``user_side`` and ``rank_side`` together equal ``forward`` on one user."""

    widths: Widths

    @property
    def side_dimensions(self) -> Mapping[str, Mapping[int, str]]:
        """Names of :meth:`user_side`'s tensors in the graphs, in order, and their dynamic dimensions.

        They begin with ``side.``: no feature's name has a dot.
        """
        ...

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Logits, [B], of ``forward(user_BU, query_BD, item_BI, keys_ED, offsets)``.

        ``offsets`` [B + 1]: sample b's events are offsets[b]:offsets[b + 1]. With ``distinct_events`` the keys are
        those of the distinct events, and a sixth argument, ``index_E``, says which of them each event is.
        """
        ...

    def user_side(self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor) -> tuple[Tensor, ...]:
        """Compute what a request needs once. ``present_S`` is 0 for padding, which stands before the events."""
        ...

    def rank_side(self, side: Sequence[Tensor], query_CD: Tensor, item_CI: Tensor) -> Tensor:
        """Logits of C candidates, [C], given the tensors of :meth:`user_side`."""
        ...


@runtime_checkable
class StatefulNet(RankingNet, Protocol):
    """A network that may go on from sums of a user's older events; a bundle of it has an ``encode`` graph.

    Attributes:
        newest: events that it reads one by one in any case, whether or not the sums hold them.
    """

    newest: int

    @property
    def state(self) -> tuple[int, int] | None:
        """Rows and width of the sums; None: as configured it has none."""
        ...

    def sums(self, keys_SD: Tensor, present_S: Tensor) -> Tensor:
        """Sums of one user's events, of shape :attr:`state`: additive over any division of the events."""
        ...

    def user_side_from(
        self, user_1U: Tensor, keys_SD: Tensor, present_S: Tensor, *, sums: Tensor, fresh_S: Tensor
    ) -> tuple[Tensor, ...]:
        """:meth:`user_side` of a user whose older events are given by their sums, and last the sums of all.

        ``fresh_S`` is 1 for each of ``keys_SD`` that ``sums`` does not hold.
        """
        ...


@runtime_checkable
class FieldAttentionNet(RankingNet, Protocol):
    """A network with attention between the fields of a sample, which ``recsys explain`` shows.

    Attributes:
        with_history: means of the past events' attributes are fields too.
    """

    with_history: bool

    def attention_maps(self, *inputs: Tensor) -> Tensor:
        """Weights by layer, sample and head, [L, B, H, F, F], of ``forward``'s arguments."""
        ...
