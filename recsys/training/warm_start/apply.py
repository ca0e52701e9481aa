"""A new run that begins with the rows and layers of an older one, after features or vocabulary changed.

Rows are matched by id: what an id's row was, its row becomes, whatever its number is now. A row that several ids
share becomes the mean of their rows. Hashed rows are matched where the hash function is the same. Optimiser state comes
along where the optimiser is the same. Tables, ids and layers that are new begin as in any run; layers are taken whole,
where names and shapes are the same and the network is of the same kind.

Legend: ``N`` pairs of a new row and an old one, ``R`` new rows, ``D`` width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap
from recsys.embeddings.sharding.shard import TableShard, table_shards
from recsys.errors import ConfigError
from recsys.training.tables.plan import table_specs
from recsys.training.trained import TrainedModel
from recsys.training.warm_start.source import WarmStartSource


@dataclass(frozen=True, kw_only=True)
class TableStart:
    """Outcome of a warm start for a table.

    Attributes:
        table: name of the table of ids.
        taken: rows that began as an older model's.
        new_ids, dropped_ids: that only the new map knows, and only the old one.
        fresh: why nothing was taken; empty: something was.
    """

    table: str
    taken: int
    new_ids: int
    dropped_ids: int
    fresh: str = ""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Rows and layers that a warm start took.

    Attributes:
        source: folder it was taken from.
        tables: one entry for each table of the new model.
        dropped_tables: of the old model that the new one has not.
        layers_taken, layers_fresh: of the network.
        numbers_kept, numbers_fresh: numeric features that are read as the older model does, and with new statistics.
        other_kind: the kind of the old network, if it is another: then only tables were taken.
        with_optimizer: whether rows took their optimiser's state along.
        steps_before: steps that this state is of.
    """

    source: str
    tables: tuple[TableStart, ...]
    dropped_tables: tuple[str, ...]
    layers_taken: tuple[str, ...]
    layers_fresh: tuple[str, ...]
    numbers_kept: tuple[str, ...]
    numbers_fresh: tuple[str, ...]
    other_kind: str | None
    with_optimizer: bool
    steps_before: int

    def __str__(self) -> str:
        rows = sum(each.taken for each in self.tables)
        new, dropped = sum(each.new_ids for each in self.tables), sum(each.dropped_ids for each in self.tables)
        lines = [
            f"warm start from {self.source}: {rows:,} rows taken, {new:,} ids are new, {dropped:,} ids dropped"
            + ("; optimiser state taken" if self.with_optimizer else "; optimiser state new")
        ]
        lines += [f"  table {each.table}: {each.fresh}, begins anew" for each in self.tables if each.fresh]
        lines += [f"  table {name}: the new model has none" for name in self.dropped_tables]
        if self.other_kind is not None:
            lines.append(f"  its network is of kind {self.other_kind}: only tables are taken")
        else:
            lines.append(f"  layers taken: {len(self.layers_taken)}; anew: {', '.join(self.layers_fresh) or 'none'}")
        if self.numbers_kept or self.numbers_fresh:
            kept, fresh = (", ".join(names) or "none" for names in (self.numbers_kept, self.numbers_fresh))
            lines.append(f"  statistics of numeric features kept: {kept}; of the new samples: {fresh}")
        return "\n".join(lines)


def start_warm(source: WarmStartSource, trained: TrainedModel, optimizer: torch.optim.Optimizer) -> WarmStart:
    """Take what fits into a model that was just built; each process sets its parts of the tables.

    Args:
        source: the older model.
        trained: the new one.
        optimizer: of its network.

    Raises:
        ConfigError: nothing fits.
    """
    shards = table_shards(trained.model)
    with_state = source.optimizer == trained.config.tables.optimizer
    specs = table_specs(trained.config.tables, trained.config.rows, trained.row_maps)
    widths, done = {spec.name: spec.dim for spec in specs}, set[str]()
    tables = tuple(
        _start_table(table, row_map, source, shards, widths=widths, with_state=with_state, done=done)
        for table, row_map in trained.row_maps.items()
    )
    other_kind = None if source.kind == trained.config.model.kind else source.kind
    layers = _layers(trained.model.module.net.state_dict())
    found = _layers(source.layers) if other_kind is None else {}
    taken = {name for name, values in layers.items() if _shapes(values) == _shapes(found.get(name, {}))}
    matrices = [value for name in taken for value in layers[name].values() if value.dim() > 1]
    if not matrices and not any(each.taken for each in tables):
        raise ConfigError(
            f"train.warm_start {source.name}: nothing of it fits: no table has ids, name and width of one here "
            f"({', '.join(trained.row_maps)}), and no layer its shape; train without it"
        )
    values = {key: value for name in taken for key, value in found[name].items()}
    trained.model.module.net.load_state_dict(values, strict=False)
    # That state goes by the parameters' places: both networks must have the same ones, in the same order.
    same_places = list(source.layers) == list(trained.model.module.net.state_dict())
    if same_places and len(taken) == len(layers) and source.dense_optimizer is not None:
        # Rates and decay are this run's; the moments are the old one's. A copy: they are mapped from a file.
        state = {**copy.deepcopy(source.dense_optimizer), "param_groups": optimizer.state_dict()["param_groups"]}
        optimizer.load_state_dict(state)
    kept = {
        name for name, old in source.numbers.items() if name in trained.numbers and old.reads_as(trained.numbers[name])
    }
    return WarmStart(
        source=source.name,
        tables=tables,
        dropped_tables=tuple(sorted(set(source.row_maps) - set(trained.row_maps))),
        layers_taken=tuple(name for name in layers if name in taken),
        layers_fresh=tuple(name for name in layers if name not in taken),
        numbers_kept=tuple(name for name in trained.numbers if name in kept),
        numbers_fresh=tuple(name for name in trained.numbers if name not in kept),
        other_kind=other_kind,
        with_optimizer=with_state,
        steps_before=source.steps if with_state else 0,
    )


def matching_rows(old: RowMap, new: RowMap, *, lookup: int) -> tuple[Int64Array, Int64Array]:
    """Rows that mean the same in one lookup of two maps: the new one's and the old one's, both [N].

    >>> from recsys.embeddings.row_maps.vocabulary import vocabulary
    >>> old = vocabulary("item", np.array([3, 7]), np.array([9, 8]))
    >>> new = vocabulary("item", np.array([5, 7]), np.array([9, 8]))
    >>> [rows.tolist() for rows in matching_rows(old, new, lookup=0)]
    [[0, 2], [0, 2]]
    """
    if lookup >= len(old.lookups):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    before, now = old.lookups[lookup], new.lookups[lookup]
    new_N = old_N = np.array([UNKNOWN_ROW])
    if before.exact == now.exact == "row" and old.ids is not None and new.ids is not None:
        keys_V, rows_V = old.ids.entries()
        both_V = new.ids.lookup(keys_V)
        new_N = np.concatenate([new_N, both_V[both_V > 0]])
        old_N = np.concatenate([old_N, rows_V[both_V > 0]])
    elif before == now and _same_ids(old, new):
        new_N = old_N = np.arange(now.num_rows)
    a, b = before.hashed, now.hashed
    if a is not None and b is not None and (a.coefficients, a.count) == (b.coefficients, b.count):
        hashed_N = np.flatnonzero(~np.isin(b.first + np.arange(b.count), new_N))
        new_N = np.concatenate([new_N, b.first + hashed_N])
        old_N = np.concatenate([old_N, a.first + hashed_N])
    return new_N, old_N


def _start_table(
    table: str,
    row_map: RowMap,
    source: WarmStartSource,
    shards: list[TableShard],
    *,
    widths: Mapping[str, int],
    with_state: bool,
    done: set[str],
) -> TableStart:
    old = source.row_maps.get(table)
    own, known = _known_ids(row_map), _known_ids(old)
    start = TableStart(
        table=table,
        taken=0,
        new_ids=len(np.setdiff1d(own, known)),
        dropped_ids=len(np.setdiff1d(known, own)),
    )
    if old is None:
        return replace(start, fresh="the old model has none")
    if row_map.combine != old.combine:
        return replace(start, fresh=f"its rows are combined by {row_map.combine}, not by {old.combine}")
    taken, fresh = 0, ""
    for number, lookup in enumerate(row_map.lookups):
        new_N, old_N = matching_rows(old, row_map, lookup=number)
        if len(new_N) <= 1:  # the row of unknown ids alone
            fresh = f"no id or hash of its map ({row_map.kind}) is in the old one ({old.kind})"
            continue
        before = old.lookups[number].table
        if source.shapes[before][1] != widths[lookup.table]:
            fresh = f"its width is {widths[lookup.table]}, not {source.shapes[before][1]}"
            continue
        rows_R, group_N = np.unique(new_N, return_inverse=True)
        taken += len(rows_R)
        if lookup.table in done and row_map.kind == "unified":  # taken whole with the first table that shares it
            continue
        done.add(lookup.table)
        here = [shard for shard in shards if shard.table == lookup.table]
        for name in (None, *(source.states(before) if with_state else ())):
            _set_rows(here, rows_R, _means(source.rows(before, old_N, name), group_N, len(rows_R)), name)
    return replace(start, taken=taken, fresh="" if taken else fresh)


def _known_ids(row_map: RowMap | None) -> Int64Array:
    return np.zeros(0, dtype=np.int64) if row_map is None or row_map.ids is None else row_map.ids.entries()[0]


def _means(values_N: Tensor, group_N: Int64Array, groups: int) -> Tensor:
    """The mean of each group, [R] or [R, D]; of equal values it is that value to the last bit: ids of one cluster."""
    index = torch.from_numpy(group_N)
    if groups == len(group_N):
        ordered = torch.empty_like(values_N)
        ordered[index] = values_N
        return ordered
    # In float64 the sum of equal float32 numbers is exact.
    sums = torch.zeros(groups, *values_N.shape[1:], dtype=torch.float64).index_add_(0, index, values_N.double())
    counts = torch.bincount(index, minlength=groups)
    return (sums / counts.view(-1, *[1] * (values_N.dim() - 1))).to(values_N.dtype)


def _set_rows(shards: list[TableShard], rows_R: Int64Array, values_R: Tensor, state: str | None) -> None:
    for shard in shards:
        target = shard.weights if state is None else shard.state.get(state)
        if target is None or target.dim() != values_R.dim():
            continue
        here_R = (rows_R >= shard.row) & (rows_R < shard.row + len(target))
        values = values_R[torch.from_numpy(here_R)]
        if target.dim() == 2:
            values = values[:, shard.column : shard.column + target.shape[1]]
        target[torch.from_numpy(rows_R[here_R] - shard.row).to(target.device)] = values.to(target)


def _same_ids(old: RowMap, new: RowMap) -> bool:
    if old.ids is None or new.ids is None:
        return old.ids is new.ids
    return all(np.array_equal(a, b) for a, b in zip(old.ids.entries(), new.ids.entries(), strict=True))


def _layers(parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Parameters and buffers by the module that holds them."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in parameters.items():
        layers.setdefault(name.rpartition(".")[0] or name, {})[name] = value
    return layers


def _shapes(values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in values.items()}
