#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The tests with other versions of Python, in folders of their own outside the repository.
#   scripts/pythons.sh [3.12 3.13]           the whole suite, of the last commit (several GB each)
#   scripts/pythons.sh --small [3.12 3.13]   protocol, client, extension and packaging, which need no PyTorch (1 GB each)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/interpreter.sh
root=${PYTHON_VERSIONS:-${XDG_CACHE_HOME:-$HOME/.cache}/msd_blender/pythons}
small=; [ "${1:-}" != --small ] || { small=yes; shift; }
[ $# -gt 0 ] || set -- 3.12 3.13

for version; do
    python=$(interpreter "$version")
    [ -n "$python" ] || { echo "pythons: Python $version was not found: its tests are left out." >&2; continue; }
    if [ -z "$small" ]; then
        mkdir -p "$root"
        [ -d "$root/$version" ] || git clone -q . "$root/$version"
        git -C "$root/$version" fetch -q "$PWD" HEAD && git -C "$root/$version" checkout -q FETCH_HEAD
        make -C "$root/$version" setup PYTHON="$python"
        (cd "$root/$version" && .venv/bin/python -m pytest -q -n "${WORKERS:-2}" --dist loadfile)
        continue
    fi
    env=$root/$version-small
    [ -x "$env/bin/pytest" ] || "$python" -m venv --clear "$env"
    case $version in 3.12) bpy= ;; *) bpy=bpy ;; esac
    wanted=$(grep -E '^(bpy|cattrs|attrs|numpy|psutil|setuptools|pytest|pytest-timeout|hypothesis)==' requirements.lock)
    "$env/bin/python" -m pip install -q --disable-pip-version-check -r /dev/stdin <<<"$wanted"
    echo "Python $version"
    "$env/bin/python" -m pytest -q -p no:cacheprovider -m "not process" tests/test_protocol.py tests/test_client.py \
        tests/test_install.py tests/test_packaging.py
    # Not the tests' own conftest.py, which needs the server's packages.
    [ -z "$bpy" ] || MSD_SERVER_PYTHON=$PWD/.venv/bin/python "$env/bin/python" -m pytest -q --confcutdir tests/blender \
        -p no:cacheprovider tests/blender/test_scene_object.py tests/blender/test_capture.py tests/blender/test_extension.py
done
