"""Writing a bundle: under a temporary name, hashed, synced, and put in place in one step."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.bundle.index import check_index
from recsys.bundle.manifest import MANIFEST, Manifest, digest_of, manifest_to_dict
from recsys.bundle.verify import sha256_of
from recsys.errors import BundleError, InvalidInputError
from recsys.files import locked, make_folder, sync, writing

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def bundle_writer(path: Path, *, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Write a bundle atomically: on success ``path`` is complete, otherwise it is as it was before.

    Put graphs and tables under ``writer.folder`` and call ``writer.finish(manifest)`` once.

    Raises:
        InvalidInputError: ``path`` exists and ``overwrite`` is false, or is not a bundle.
        BundleError: ``finish`` was not called.
        ConfigError: the folder around it cannot be written.
        NoSpaceError: there is no room.
    """
    path = path.absolute()
    make_folder(path.parent)
    remove_leftovers(path)
    if path.exists() and not overwrite:
        raise InvalidInputError(f"{path} exists; choose another folder, or replace it with overwrite=True")
    if path.exists() and not (path / MANIFEST).is_file():
        raise InvalidInputError(f"{path} exists and is not a bundle; it is not overwritten")
    folder = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        with writing(path):
            folder.mkdir()
        with writing(path), locked(folder):  # tells the next writer that this folder is no leftover
            writer = BundleWriter(folder)
            yield writer
            if not writer.finished:
                raise BundleError(f"{path}: the bundle was not finished")
            _replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class BundleWriter:
    """Collects a bundle's files in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = False
        (folder / "tables").mkdir()

    def finish(self, manifest: Manifest) -> Manifest:
        """Hash every file, write the manifest, and sync all to disk; returns the manifest as written.

        Raises:
            BundleError: the manifest's index is not that of the files.
        """
        files: dict[str, tuple[int, str]] = {}
        for file in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = file.relative_to(self.folder).as_posix()
            files[name] = (file.stat().st_size, sha256_of(file))
            sync(file)
        manifest = dataclasses.replace(manifest, files=files)
        check_index(self.folder, manifest)
        values = manifest_to_dict(manifest)
        text = json.dumps({**values, "manifest_sha256": digest_of(values)}, indent=2, sort_keys=True, allow_nan=False)
        (self.folder / MANIFEST).write_text(text + "\n")
        for file in (self.folder / MANIFEST, self.folder / "tables", self.folder):
            sync(file)
        self.finished = True
        return manifest


def remove_leftovers(path: Path) -> None:
    """Delete temporary folders that killed exports of ``path`` left behind; those being written are kept.

    If the kill fell between the two renames of :func:`_replace`, the old bundle is put back.
    """
    for old in path.parent.glob(f".{path.name}.old-*"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, path)
    for folder in path.parent.glob(f".{path.name}.tmp-*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, path: Path) -> None:
    """Put ``folder`` in the place of ``path``. A reader sees the old bundle, or the new one."""
    if not path.exists():
        os.rename(folder, path)
    elif not _exchange(folder, path):
        # Without an atomic exchange there is a moment with no bundle; the old one is deleted only after it.
        old = folder.with_name(folder.name.replace(".tmp-", ".old-"))
        os.rename(path, old)
        os.rename(folder, path)
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux, renameat2(2)); whether the system and file system could."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(swap(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)
