#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The extension's tests and benchmark in other versions of Blender, each in an environment of its own outside the
# repository (about 1 GB each):   scripts/blender_versions.sh [4.2 5.3]
# The server keeps the repository's own environment.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/interpreter.sh
root=${BLENDER_VERSIONS:-${XDG_CACHE_HOME:-$HOME/.cache}/msd_blender/versions}
[ $# -gt 0 ] || set -- 4.2 4.5 5.0 5.1 5.2 5.3

for version; do
    python=$root/$version/bin/python
    if ! "$python" -c 'import bpy, pytest' 2>/dev/null; then
        case $version in 4.*|5.0) wanted=3.11 ;; *) wanted=3.13 ;; esac
        found=$(interpreter $wanted)
        [ -n "$found" ] || { echo "blender-versions: Blender $version needs Python $wanted, which was not found." >&2; exit 1; }
        "$found" -m venv --clear "$root/$version"
        "$python" -m pip install -q "bpy==$version.*" pytest pytest-timeout
    fi
    "$python" -c 'import bpy; print("Blender", bpy.app.version_string)'
    # Not the tests' own conftest.py, which needs the server's packages.
    MSD_SERVER_PYTHON=$PWD/.venv/bin/python "$python" -m pytest -q --confcutdir tests/blender -p no:cacheprovider \
        tests/blender/test_scene_object.py tests/blender/test_capture.py tests/blender/test_extension.py
    "$python" -m benchmarks.blender
done
