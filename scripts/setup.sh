#!/usr/bin/env bash
# Sets up everything in .venv; nothing to do the second time. PYTHON=… picks the interpreter (3.11).
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
# What bpy links to and a bare Debian 12 lacks.
LIBRARIES="libgl1 libsm6 libxi6 libxkbcommon0 libxrender1 libxfixes3"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }
if has_gpu; then hardware=gpu; else hardware=cpu; fi
stamp=.venv/setup-stamp
wanted=$(cat requirements.lock scripts/setup.sh | sha256sum | cut -c 1-16)-$hardware
[ "$(cat $stamp 2>/dev/null)" != "$wanted" ] || exit 0

python=${PYTHON:-}
for candidate in python3.11 python3; do
    [ -n "$python" ] || ! command -v "$candidate" >/dev/null || python=$candidate
done
[ -n "$python" ] || fail "Python 3.11 was not found; install it with its venv module (Debian: python3-venv)."
[ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = 3.11 ] ||
    fail "$python is $("$python" --version), but Blender 4.2 to 5.0 needs Python 3.11: set PYTHON to one."

if [ ! -x .venv/bin/pip ]; then
    say "Making .venv …"
    "$python" -m venv .venv || fail "the venv module is missing; on Debian: apt-get install python3-venv"
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@" </dev/null; }

say "Installing PyTorch $TORCH for the $hardware …"
if [ $hardware = gpu ] || [ "$(uname -s)" != Linux ]; then
    pip install "torch==$TORCH"
else    # the build without CUDA: from the sources pip knows, else from PyTorch's own
    pip install "torch==$TORCH+cpu" ||
        pip install "torch==$TORCH+cpu" --extra-index-url https://download.pytorch.org/whl/cpu ||
        fail "PyTorch $TORCH for the CPU could not be installed; see pip's message above."
fi

say "Installing the other packages (Warp, the rasterizer for CUDA, is 149 MB to load and 392 MB installed) …"
pip install -r requirements.lock

if ! .venv/bin/python -c 'import bpy' 2>/dev/null; then
    install="apt-get install -y --no-install-recommends $LIBRARIES"
    if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else sudo=none; fi
    if [ "$sudo" = none ] || ! command -v apt-get >/dev/null; then
        fail "bpy needs system libraries. Run this, then again what you ran:  sudo $install"
    fi
    say "Installing the system libraries that bpy needs …"
    $sudo apt-get update -q </dev/null
    DEBIAN_FRONTEND=noninteractive $sudo $install </dev/null
    .venv/bin/python -c 'import bpy' || fail "bpy cannot be imported; its message is above."
fi

say "Compiling the kernels for the $hardware (once, about half a minute) …"
.venv/bin/python -c 'from server import logs; logs.set_up(); from server.optimize import warm_up; warm_up()'

# The extension looks there for its server.
known=${XDG_DATA_HOME:-$HOME/.local/share}/msd_blender
{ mkdir -p "$known" && pwd > "$known/installation"; } 2>/dev/null || true

echo "$wanted" > $stamp
say "Ready."
