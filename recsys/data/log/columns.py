"""Columns that raw logs and entity files must and may have, and their types."""

from __future__ import annotations

from typing import Any

from recsys.data.log.arrow_values import fits, is_integer
from recsys.data.log.labels import LabelRule, check_label_column
from recsys.data.log.raw_files import RawFiles, check_names
from recsys.errors import DataFileError
from recsys.features.feature_set import Categorical, Entity, FeatureSet
from recsys.features.history.records import require_history


def checked_log(features: FeatureSet, files: RawFiles, label: LabelRule | None, *, labelled: bool = False) -> RawFiles:
    """The files of a log, if their columns are what they should be.

    Args:
        features: declares the columns.
        files: of events or, where every row must have a label, of impressions (``labelled``).
        label: what the label is made of; default: the column ``label``.

    Raises:
        DataFileError: a column is missing, unknown or of the wrong type.
        InvalidInputError: the label's column is missing.
    """
    required = [features.user_id.name, features.item_id.name, "timestamp_ms"]
    declared = (features.user_id, features.item_id, *require_history(features).attributes, *features.context)
    optional = ["arrival_ms", *(f.name for f in declared), "label"]
    if label is not None:
        check_label_column(label, files.names, str(files.paths[0]))
        optional.append(label.column)
    elif labelled:
        required.append("label")
    check_names(files, required=required, optional=optional)
    for feature in declared:
        _check_type(files, feature.name, feature)
    for name in ("timestamp_ms", "arrival_ms"):
        _check_type(files, name, None)
    return files


def checked_entity(entity: Entity, files: RawFiles) -> RawFiles:
    """The files of an entity, likewise."""
    check_names(files, required=[entity.id.name], optional=[f.name for f in entity.features])
    for feature in (entity.id, *entity.features):
        _check_type(files, feature.name, feature)
    return files


def _check_type(files: RawFiles, name: str, feature: Any) -> None:
    kind = files.types.get(name)
    if name not in files.names or files.is_text:
        return
    if feature is None:
        good, wanted = is_integer(kind), "integers (milliseconds since 1970)"
    else:
        good = fits(feature, kind)
        wanted = f"{feature.id_type} ids" if isinstance(feature, Categorical) else "numbers"
        if isinstance(feature, Categorical) and feature.max_values > 1:
            wanted = f"lists of {wanted}"
    if not good:
        raise DataFileError(
            f"{files.paths[0]}: column {name!r} is {kind}; expected {wanted}: cast it, or change the features"
        )
