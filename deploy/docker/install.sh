#!/bin/sh
# The build stage of both images, in two steps: a source that changed installs no package anew.
#
#   install.sh packages serve [NAME...]  what the server needs, pinned, into /opt/recsys; and more: pyarrow, confluent-kafka
#   install.sh packages train [cuda]     what training needs beside it: see requirements/README.md for the order
#   install.sh recsys                    the wheel of this source, with its operators compiled here
#
# /opt/recsys is a virtual environment without pip, compiled to bytecode: the same bytes for the same commit and packages.
set -eu

tools=/tmp/tools/bin/python
into=/opt/recsys
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1

install() {
    "$tools" -m pip --quiet --python "$into/bin/python" install "$@"
}

packages() {
    case "$1" in
    serve | train) ;;
    *)
        echo "packages of $1; allowed: serve, train" >&2
        exit 2
        ;;
    esac
    python3 -m venv /tmp/tools
    "$tools" -m pip --quiet install "$(grep '^setuptools==' requirements/dev.txt)"
    python3 -m venv --without-pip "$into"
    case "$1" in
    serve)
        install -r requirements/serve.txt -r requirements/serve-extras.txt
        shift
        for name in "$@"; do
            install --no-deps "$(grep -h "^$name==" requirements/train-common.txt requirements/dev.txt)"
        done
        ;;
    train)
        install -r requirements/torch.txt
        install -r "requirements/train-${2:-cpu}.txt" -r requirements/serve-extras.txt
        install --no-deps -r requirements/torchrec.txt
        ;;
    esac
}

recsys() {
    "$tools" scripts/build_wheel.py --out /tmp/wheel
    install --no-deps --no-index /tmp/wheel/recsys-*.whl
    "$into/bin/python" -I -c 'from recsys.operators import library; assert library(), "the operators did not compile"'
    find "$into"/lib/python3*/site-packages/numpy -type d -name tests -prune -exec rm -r {} +
    # By content, not by time: a time would differ with each build. Torch's tests have a file in the syntax of Python 3.12.
    "$into/bin/python" -m compileall -q -j 0 -x 'torch/testing/_internal/' --invalidation-mode unchecked-hash "$into/lib"
    find "$into" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-315532800}" {} +
}

"$@"
