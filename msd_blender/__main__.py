# SPDX-License-Identifier: GPL-3.0-or-later
import sys

from .commands import main

sys.exit(main(sys.argv[1:]))
