"""Opening a bundle: its manifest read, its files verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recsys.bundle.index import check_index
from recsys.bundle.manifest import FORMAT_VERSION, MANIFEST, Manifest, digest_of, manifest_from_dict
from recsys.bundle.verify import FileState, Verify, check_files
from recsys.errors import BundleError
from recsys.features.feature_set import FeatureSet
from recsys.features.names import ITEM_NAMES, NAMES_SUFFIX, Names, open_names
from recsys.files import parse_json


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle.

    Attributes:
        path: its folder.
        manifest: of it.
        states: of its files, just before each was verified.
    """

    path: Path
    manifest: Manifest
    states: Mapping[str, FileState] = field(default_factory=dict, repr=False)

    @property
    def features(self) -> FeatureSet:
        """The FeatureSet, which defines the graphs' inputs."""
        return self.manifest.feature_set

    def graph_path(self, name: str) -> Path:
        """The ONNX file of graph ``name``."""
        return self.path / self.manifest.graphs[name].file

    def names(self) -> dict[str, Names]:
        """Map the texts of string ids, by embedding table, as far as the bundle has them.

        Raises:
            BundleError: a file of them is damaged.
        """
        if self.manifest.kind == "retrieval":
            files = {self.features.item_id.table: ITEM_NAMES}
        else:
            files = {table: f"tables/{table}{NAMES_SUFFIX}" for table in self.features.tables()}
        return {table: open_names(self.path / file) for table, file in files.items() if file in self.manifest.files}


def open_bundle(
    path: Path,
    *,
    verify: Verify = "full",
    expected: FeatureSet | None = None,
    verified: Mapping[str, FileState] | None = None,
) -> Bundle:
    """Open a bundle after checking that it is whole, unaltered and readable by this program.

    Args:
        path: the bundle's folder.
        verify: ``full`` hashes every file (about 1 GB/s); ``sizes`` only looks at presence and size.
        expected: refuse a bundle made for any other FeatureSet.
        verified: with ``sizes``: ``Bundle.states`` of this folder when it was verified in full, by another process for
            one; a file that is not as it was then is hashed. None: nothing is known.

    Raises:
        BundleError: it is missing, incomplete, altered, of a newer format, or for another FeatureSet.
    """
    manifest = read_manifest(path)
    states = check_files(path, manifest, verify=verify, verified=verified)
    if expected is not None and manifest.feature_set != expected:
        raise BundleError(
            f"{path}: made for FeatureSet {manifest.feature_set.name!r} "
            f"({manifest.feature_set.fingerprint()}), not {expected.name!r} ({expected.fingerprint()})"
        )
    return Bundle(path=path, manifest=manifest, states=states)


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest without looking at its other files.

    Raises:
        BundleError: there is none, it is not one, or it is of a newer format.
    """
    file = path / MANIFEST
    try:
        values = parse_json(file.read_bytes(), parse_constant=_no_constant)
    except FileNotFoundError:
        what = f"no {MANIFEST}: not a bundle" if path.is_dir() else "no such folder"
        raise BundleError(f"{path}: {what}; `recsys export` writes a bundle") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: not readable as JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{file}: no format_version: not a manifest")
    if version > FORMAT_VERSION:
        raise BundleError(f"{path}: bundle format {version}, but this program reads up to {FORMAT_VERSION}: upgrade it")
    try:
        manifest = manifest_from_dict(values)
        unlisted = sorted({g.file for g in manifest.graphs.values()} - set(manifest.files))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise BundleError(f"{file}: malformed manifest: {error}") from error
    stated = values.get("feature_set_fingerprint")
    if stated != manifest.feature_set.fingerprint():
        raise BundleError(
            f"{file}: the FeatureSet was altered: its fingerprint is {manifest.feature_set.fingerprint()}, "
            f"the manifest says {stated}"
        )
    if unlisted:
        raise BundleError(f"{file}: graph {unlisted[0]!r} is not in its list of files")
    if values.get("manifest_sha256") != digest_of(values):
        raise BundleError(f"{file} was altered: its SHA-256 is not the one it states")
    check_index(path, manifest)
    return manifest


def _no_constant(name: str) -> None:
    raise ValueError(f"found {name}; allowed: numbers, null")
