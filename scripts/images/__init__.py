"""Images without a daemon: the Dockerfiles of ``deploy/docker`` carried out by Debian's debootstrap, runc and umoci.

- ``dockerfile.py``: the instructions of a Dockerfile; ``steps.py``: those of ours, carried out on folders;
- ``bases.py``: roots in place of the base images, and the packages that a build installs;
- ``build.py``: from a Dockerfile to an image, and to a root that runs; ``container.py``: runs it.

So what tests and benchmarks run is what the Dockerfiles say, and no copy of it. Needs root and those three programs:
``missing()`` of ``container.py`` says what is not there.
"""
