"""Say how to build both images with Docker; or build one here, without it.

    python scripts/build_images.py                          # the lines for docker, podman or buildah
    python scripts/build_images.py --kind serve --out FOLDER  # by debootstrap, runc and umoci, as root

The second leaves an OCI image in FOLDER/image, and FOLDER/bundle for `runc run`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from images.build import KINDS, build, commands
from images.container import missing

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kind", choices=KINDS, help="build this one here")
    options.add_argument("--out", type=Path, help="an empty folder")
    given = options.parse_args()
    if given.kind is None:
        print(
            "From the repository's root; give base images by digest (docs/operate/images.md):", *commands(), sep="\n\n"
        )
        sys.exit()
    if given.out is None:
        options.error("--kind needs --out")
    if reason := missing():
        sys.exit(f"error: {reason}")
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        print(build(given.kind, given.out))
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}\n{error.output}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
