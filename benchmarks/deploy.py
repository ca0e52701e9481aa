"""Deployments: manifests for Kubernetes, the serving image, servers that come and go, hosts that are lost.

``manifests``: planted faults that are not found, and findings of others' tools that are not explained.
``images``: the image's size, and the time from its start until it serves.
``replicas``: the time until servers that join others have their share of the calls, and calls that fail when one goes.
``hosts``: training over several hosts, which are network namespaces: one is lost; what a second one brings.
``cluster``: a Redis Cluster of six hosts and rankers on three, of which one is cut off.

The parts are measured one after another; each has a folder of its own.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.common import Line, main, parser, say

MEASURES = (
    ("manifests", "manifests", "manifests"),
    ("images", "images", "images"),
    ("replicas", "replicas", "replicas"),
    ("hosts", "hosts", "lost"),
    ("hosts", "hosts", "speed"),
    ("cluster", "hosts", "cluster"),
)
"""Part, module of ``deploying/`` and its function: it takes a folder of its own and one of the module's ``SIZES``."""

PARTS = tuple(dict.fromkeys(part for part, _, _ in MEASURES))


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made:
        for number, (part, module, function) in enumerate(MEASURES):
            if part not in (options.only or PARTS):
                continue
            say(f"part {part}: {module}.{function}")
            folder = Path(made) / str(number)
            folder.mkdir()
            if options.image and part == "images":
                (folder / "image").symlink_to(options.image.resolve())
            loaded = importlib.import_module(f"deploying.{module}")  # only then: what breaks one leaves the others
            yield from getattr(loaded, function)(folder, loaded.SIZES[options.size])


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}")
    options.add_argument(
        "--image", type=Path, metavar="FOLDER", help="the serving image of this commit, made by scripts/build_images.py"
    )
    main("deploy", run, options)
