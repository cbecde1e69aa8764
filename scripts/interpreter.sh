# SPDX-License-Identifier: GPL-3.0-or-later
# Sourced by the scripts that use several versions of Python, from the repository's root.

# interpreter 3.12: print one of that version that can make environments, or nothing; also one of pyenv that its shims hide.
interpreter() {
    for each in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python .venv/bin/python; do
        [ "$("$each" -c 'import sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$1" ] || { echo "$each"; return; }
    done
}
