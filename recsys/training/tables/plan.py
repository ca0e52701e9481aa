"""From a recipe's ``rows`` and ``tables`` to row maps and physical tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.id_pairs import id_pairs
from recsys.data.samples.ids import id_counts
from recsys.embeddings import WIDTH_UNIT
from recsys.embeddings.row_maps.clusters import Clusters, cluster, cluster_to_rows, index_keys
from recsys.embeddings.row_maps.growth import CLUSTER_ROWS
from recsys.embeddings.row_maps.method import Counts, Method
from recsys.embeddings.row_maps.registry import ROW_MAPS
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.tables import TableSpec
from recsys.errors import ConfigError, InvalidInputError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.training.config import MapName, RowConfig, RunConfig, TableConfig


def build_row_maps(
    config: RunConfig, dataset: Dataset, *, report: Callable[[str], None] = lambda message: None
) -> dict[str, RowMap]:
    """A row map per table, of the ids that the training samples and their histories hold.

    Args:
        config: the run; its ``rows`` and ``tables`` are read.
        dataset: with keys.
        report: called with each step that takes long.

    Raises:
        ConfigError: ``rows`` names a table that the FeatureSet does not have, or leaves a table without a row.
        InvalidInputError: a method cannot make a map of these ids.
    """
    return row_maps_of(
        config.rows,
        config.tables,
        dataset.table.features,
        id_counts(dataset, dataset.split("train")),
        pairs=lambda left, right: id_pairs(dataset, dataset.split("train"), left=left, right=right),
        report=report,
    )


def row_maps_of(
    rows: RowConfig,
    tables: TableConfig,
    features: FeatureSet,
    counts: Mapping[str, Counts],
    *,
    pairs: Callable[[str, str], tuple[Int64Array, Int64Array]],
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, RowMap]:
    """A row map for each table whose ids are counted.

    Args:
        rows, tables: of the recipe.
        features: whose tables they are.
        counts: of the ids in training.
        pairs: ids of two tables that met, both [E]; called for methods that cluster them.
        report: called with each step that takes long.

    Raises:
        ConfigError, InvalidInputError: as of :func:`build_row_maps`.
    """
    _check_names(rows, features)
    kinds = {table: _kind(rows, table, len(ids)) for table, (ids, _) in counts.items()}
    _check_numbers(rows, kinds)
    training = _TrainingIds((rows, tables, features), pairs, kinds=kinds, counts=counts, report=report)
    maps: dict[str, RowMap] = {}
    for kind in dict.fromkeys(kinds.values()):
        maps |= _method(kind)([table for table, chosen in kinds.items() if chosen == kind], training)
    return {table: maps[table] for table in counts}


def table_specs(tables: TableConfig, rows: RowConfig, row_maps: Mapping[str, RowMap]) -> list[TableSpec]:
    """The physical tables that row maps look rows up in.

    Raises:
        ConfigError: two row maps have physical tables of one name, or ``tables.dims`` names no table.
    """
    if unknown := sorted(set(tables.dims) - set(row_maps)):
        raise ConfigError(f"tables.dims names no table {unknown[0]!r}: {nearest(unknown[0], row_maps)}")
    specs: dict[str, TableSpec] = {}
    owner: dict[str, str] = {}
    for table, row_map in row_maps.items():
        group = row_map.kind if row_map.kind == "unified" else table
        for lookup in row_map.lookups:
            if owner.setdefault(lookup.table, group) != group:
                raise ConfigError(f"two tables are named {lookup.table!r}; rename the feature of that name")
            if row_map.kind == "unified":
                dim = shared_widths(tables, rows)[int(lookup.table.rpartition("_")[2])]
            else:
                dim = tables.dims.get(table, tables.dim)
            specs[lookup.table] = TableSpec(name=lookup.table, num_rows=lookup.num_rows, dim=dim)
    return list(specs.values())


def table_dims(specs: list[TableSpec], row_maps: Mapping[str, RowMap]) -> dict[str, int]:
    """Width of the vector that each table's ids get."""
    width = {spec.name: spec.dim for spec in specs}
    dims = {}
    for table, row_map in row_maps.items():
        of_lookups = [width[lookup.table] for lookup in row_map.lookups]
        dims[table] = sum(of_lookups) if row_map.combine == "concat" else of_lookups[0]
    return dims


def shared_widths(tables: TableConfig, rows: RowConfig) -> tuple[int, ...]:
    """Width of each shared table of ``unified``.

    Raises:
        ConfigError: ``tables.dim`` cannot be divided by ``rows.chunks``.
    """
    if rows.widths:
        return rows.widths
    width, rest = divmod(tables.dim, rows.chunks)
    if rest or width % WIDTH_UNIT:
        raise ConfigError(
            f"tables.dim {tables.dim} in {rows.chunks} chunks; allowed: chunks of a width that is a multiple of "
            f"{WIDTH_UNIT}, or give rows.widths"
        )
    return (width,)


def _kind(rows: RowConfig, table: str, ids: int) -> MapName:
    return "vocabulary" if ids < rows.exact_below else rows.maps.get(table, rows.map)


def _method(kind: MapName) -> Method:
    if kind not in ROW_MAPS:
        raise ConfigError(f"rows.map is {kind!r}: {nearest(kind, ROW_MAPS)}")
    return ROW_MAPS[kind]


def budgeted_rows(rows: RowConfig, table: str, ids: int) -> int:
    """Rows that a table may have: for its ids, and row 0.

    Raises:
        ConfigError: the budget is below one row.
    """
    if table in rows.rows:
        return rows.rows[table]
    number = round(rows.budget * ids)
    if number < 1:
        raise ConfigError(
            f"rows.budget {rows.budget} leaves table {table!r}, of {ids} ids, without a row; give more, "
            f"or let small tables keep their ids with rows.exact_below"
        )
    return number + 1


class _TrainingIds:
    """See :class:`recsys.embeddings.row_maps.method.TrainingIds`."""

    def __init__(
        self,
        of: tuple[RowConfig, TableConfig, FeatureSet],
        pairs: Callable[[str, str], tuple[Int64Array, Int64Array]],
        *,
        kinds: Mapping[str, MapName],
        counts: Mapping[str, Counts],
        report: Callable[[str], None],
    ) -> None:
        self.settings, self._tables, self._features = of
        self.counts, self._pairs, self._kinds, self._report = counts, pairs, kinds, report
        self._clusters: dict[str, tuple[Int64Array, Int64Array]] = {}

    def budgeted_rows(self, table: str) -> int:
        return budgeted_rows(self.settings, table, len(self.counts[table][0]))

    def width(self, table: str) -> int:
        return self._tables.dims.get(table, self._tables.dim)

    def shared_widths(self) -> tuple[int, ...]:
        return shared_widths(self._tables, self.settings)

    def pairs(self, table: str) -> tuple[Int64Array, Int64Array]:
        other = self._partner(table)
        self._report(f"graph of {table} and {other}")
        return self._pairs(table, other)

    def clusters(self, table: str) -> tuple[Int64Array, Int64Array]:
        """Two tables that are each other's other side and both ask for clusters are clustered together."""
        if table not in self._clusters:
            other = self._partner(table)
            both = clustered_together(self.settings, self._features, self._kinds, table, other)
            # The first of the two is the left one, whichever asks.
            left, right = sorted((table, other), key=list(self._kinds).index) if both else (table, other)
            found, left_V, right_V = cluster_training(
                self.settings,
                self.pairs(left),
                self.counts,
                tables=(left, right) if both else (left,),
                report=self._report,
            )
            self._clusters[left] = left_V, found.left_labels
            if both:
                self._clusters[right] = right_V, found.right_labels
        return self._clusters[table]

    def _partner(self, table: str) -> str:
        other = graph_partner(self.settings, self._features, table)
        if other == table:
            raise ConfigError(f"rows.graph_with: the other side of {table!r} is {other!r} itself; name another table")
        return other


def cluster_training(
    rows: RowConfig,
    pairs: tuple[Int64Array, Int64Array],
    counts: Mapping[str, Counts],
    *,
    tables: Sequence[str],
    report: Callable[[str], None],
) -> tuple[Clusters, Int64Array, Int64Array]:
    """Clusters of the ids that met in training, and the ids of the left and the right side that they number.

    Args:
        rows: its resolution, or else its budget for ``tables`` in total.
        pairs: keys that met (``id_pairs``), both [E].
        counts: of ``tables``.
        tables: whose maps are made of it: the left one, or both.
        report: called with each try to meet the budget.

    Raises:
        ConfigError: no clustering meets the budget.
    """
    (left_E, left_V), (right_E, right_V) = map(index_keys, pairs)
    sizes = {"num_left": len(left_V), "num_right": len(right_V)}
    if rows.resolution:
        found = cluster(left_E, right_E, **sizes, resolution=rows.resolution, seed=rows.seed)
        return found, left_V, right_V
    try:
        found = cluster_to_rows(
            left_E,
            right_E,
            **sizes,
            # The map's other rows, for missing ids and ids in no cluster, come out of the same budget.
            rows=sum(budgeted_rows(rows, table, len(counts[table][0])) - 1 - rows.unknown_rows for table in tables),
            side="both" if len(tables) > 1 else "left",
            seed=rows.seed,
            report=lambda t: report(f"clustering, try {t.number}: {t.rows:,} rows, wanted {t.wanted:,}"),
        )
    except InvalidInputError as error:
        raise ConfigError(f"clusters of {' and '.join(tables)}: rows.budget less rows.unknown_rows: {error}") from error
    return found, left_V, right_V


def clustered_together(rows: RowConfig, features: FeatureSet, kinds: Mapping[str, str], table: str, other: str) -> bool:
    """True if the other side of a clustered table's graph asks for clusters of the same graph."""
    return kinds.get(other) in CLUSTER_ROWS and graph_partner(rows, features, other) == table


def graph_partner(rows: RowConfig, features: FeatureSet, table: str) -> str:
    """The table whose ids are the other side of a table's graph."""
    if table in rows.graph_with:
        return rows.graph_with[table]
    of_items = {f.table for f in features.categoricals() if f in (features.item_id, *features.item)}
    return features.user_id.table if table in of_items else features.item_id.table


def _check_names(rows: RowConfig, features: FeatureSet) -> None:
    known = features.tables()
    for setting in ("maps", "rows", "chunks_of", "graph_with"):
        names = getattr(rows, setting)
        for name in (*names, *(names.values() if setting == "graph_with" else ())):
            if name not in known:
                raise ConfigError(f"rows.{setting} names no table {name!r}: {nearest(name, known)}")


def _check_numbers(rows: RowConfig, kinds: Mapping[str, MapName]) -> None:
    """Refuse numbers of rows that nothing would read."""
    for table in rows.rows:
        if kinds.get(table) == "vocabulary" and rows.maps.get(table, rows.map) == "vocabulary":
            raise ConfigError(
                f"rows.rows gives {table!r} rows, but a vocabulary has one per id; choose another rows.maps.{table}"
            )
        if kinds.get(table) in CLUSTER_ROWS and rows.resolution:
            raise ConfigError(f"rows.rows gives {table!r} rows, and rows.resolution too; give one of the two")
