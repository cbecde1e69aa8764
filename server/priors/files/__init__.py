# SPDX-License-Identifier: GPL-3.0-or-later
"""Models on the disk: where they are, what a file holds, whether it is whole, and its parts once they are loaded."""
